"""Rewrite a model folder once, statically, into one that loads and computes right on every release.

The folder is untrusted: its files are parsed, never imported and never run. What becomes of their texts is the
matter of `opensci_lib.hotfix.rewriting`; here the outcome is written, whole or not at all.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.rewriting import choose, digest, rewrite
from opensci_lib.hotfix.rule import Rule
from opensci_lib.hotfix.rules import RULES
from opensci_lib.model_folder import appearing, check_model_folder, files, link, read_json, write_json

#: Written into a fixed folder: what made it, of what.
RECORD = "hotfix.json"


@dataclass
class Hotfix:
    """The outcome of `hotfix`."""

    src_dir: str
    dst_dir: str
    #: Rule id to the file that it changed.
    applied: dict[str, str]
    #: Unified diff of all changed files.
    diff: str
    #: False where nothing was written: a dry run, or the destination was up to date.
    written: bool = False
    #: How many files were "linked" and "copied".
    files: dict[str, int] = field(default_factory=dict)


def hotfix(
    src_dir: Path | str,
    dst_dir: Path | str | None = None,
    rules: list[str] | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Hotfix:
    """Write a fixed copy of the model folder `src_dir` to `dst_dir`, the weights without a second copy of them.

    Args:
        src_dir: a model folder. It is not changed, but that weights which both folders share become read-only (see
            `model_folder.link`). A folder that was fixed before needs nothing.
        dst_dir: where to write; by default `src_dir` with `_fixed` appended. It appears whole or
            not at all, and is left as it is when it is up to date.
        rules: ids of the rules to apply; by default all. Those that only refuse are always asked.
        dry_run: compute the outcome and write nothing.
        force: apply the others where a rule refuses, and record which did.

    Raises:
        OpensciError: when the folder is no whole model, no rule recognises its code, a rule can't
            rewrite what it sees (naming rule, file and line), or the destination is not this tool's.

    """
    source = check_model_folder(src_dir)
    chosen = choose(rules)
    target = Path(dst_dir).absolute() if dst_dir else source.with_name(source.name + "_fixed")
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise OpensciError(f"{target} lies in the folder to be fixed: choose another --dst_dir.")
    rewriting = rewrite(source, chosen)
    if rewriting.refused and not force:
        raise OpensciError(f"{rewriting.refused[0]} With --force the other rules are applied all the same.")
    changed = rewriting.after
    if not changed and not (source / RECORD).exists():
        raise OpensciError(
            f"No rule recognises the code in {source} ({', '.join(rule.id for rule in chosen)} found nothing to do): "
            "is it an open-sci-ref model as published?"
        )
    if dst_dir is None and not changed:
        return Hotfix(str(source), str(source), {}, "")
    diff = "".join(_diff(name, rewriting.before[name], text) for name, text in changed.items())
    outcome = Hotfix(str(source), str(target), rewriting.applied, diff)
    if dry_run:
        return outcome
    record = {
        "tool": f"opensci hotfix {version('opensci-lib')}",
        "rules": [rule.id for rule in chosen],
        "sources": {file.name: _identity(file) for file in files(source) if file.name != RECORD},
        "applied": rewriting.applied,
        "changed": {name: digest(text.encode()) for name, text in changed.items()},
        **({"forced": rewriting.refused} if rewriting.refused else {}),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    # another process may make it meanwhile: a run per release starts them at the same time
    with FileLock(target.with_name(f".{target.name}.lock")):
        if _is_up_to_date(target, record):
            return outcome
        with appearing(target) as partial:
            for file in files(source):
                if file.name in changed:
                    (partial / file.name).write_bytes(changed[file.name].encode())
                elif file.name != RECORD:
                    how = link(file, partial / file.name)
                    outcome.files[how] = outcome.files.get(how, 0) + 1
            write_json(partial / RECORD, record)
    outcome.written = True
    return outcome


def all_rules() -> tuple[Rule, ...]:
    """Return the rules, in the order of what they insert at one place."""
    return RULES


def rules_that_know(what: str) -> tuple[str, ...]:
    """Return the ids of the rules that know an error, or a verdict on a run, by its words."""
    return tuple(rule.id for rule in RULES if any(sign in what for sign in rule.signs))


def _is_up_to_date(target: Path, record: dict[str, Any]) -> bool:
    """Say whether `target` is what `record` says, whichever version of this tool made it.

    A file that is gone is a reason to make the folder again; one that was edited is not replaced. Weights are known
    by their size, and in the source by their time too: others of the same size and time are taken for the same.

    Raises:
        OpensciError: when replacing what stands there would lose something that this tool did not make.

    """
    if not os.path.lexists(target):
        return False
    if not (target / RECORD).is_file():
        raise OpensciError(f"{target} exists and is not a folder that this tool made: move it, or set --dst_dir.")
    found = read_json(target / RECORD)
    present = {file.name for file in files(target)} - {RECORD}
    written = found["sources"] | {name: {"sha256": known} for name, known in found["changed"].items()}
    foreign = {name for name in present if name not in written or not _is(target / name, written[name])}
    if foreign:
        raise OpensciError(
            f"{target} holds {', '.join(sorted(foreign))}, which this tool did not write: "
            "move the folder, or set --dst_dir."
        )
    found.pop("proven", None)  # that was written later, by `prove`
    return present == written.keys() and found | {"tool": record["tool"]} == record


def _diff(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _identity(file: Path) -> dict[str, Any]:
    """Say which file this is: small ones by content, weights by size and time, since reading them would take long."""
    if file.suffix == ".safetensors":
        status = file.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return {"sha256": digest(file.read_bytes())}


def _is(file: Path, identity: dict[str, Any]) -> bool:
    """Say whether a file is a copy of the one so identified; a copy's time is its own."""
    return _identity(file) | {"mtime_ns": 0} == identity | {"mtime_ns": 0}
