"""Rewrite a model folder once, statically, into one that loads and computes right on every release.

The folder is untrusted: its files are parsed, never imported and never run. What becomes of their texts is the
matter of `opensci_lib.hotfix.rewriting`; here the outcome is written, whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opensci_lib import download
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.rewriting import choose, digest, rewrite
from opensci_lib.hotfix.rule import Rule
from opensci_lib.hotfix.rules import RULES
from opensci_lib.model_folder import (
    DOWNLOAD_RECORD,
    add_code,
    alone,
    appearing,
    check_model_folder,
    files,
    left_out,
    link,
    read_config,
    read_json,
    write_json,
)

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
    #: The sentence that says what lies in the source and was not taken along, or "".
    left_out: str = ""


def hotfix(
    src_dir: Path | str,
    dst_dir: Path | str | None = None,
    rules: list[str] | None = None,
    dry_run: bool = False,
    force: bool = False,
    code_from: str | None = None,
    since: str | None = None,
    only: list[str] | None = None,
) -> Hotfix:
    """Write a fixed copy of the model folder `src_dir` to `dst_dir`, the weights without a second copy of them.

    Args:
        src_dir: a model folder. It is not changed, but that weights which both folders share become read-only (see
            `model_folder.link`). One that was fixed before, and saved by
            `save_pretrained` since, gets the record back that was left behind: it needs nothing else.
        dst_dir: where to write; by default `src_dir` with `_fixed` appended, and `_` for each dot in its name: from a
            folder with dots, processes that others spawn can't import code on 4.48. It appears whole or not at all,
            and is left as it is when it is up to date.
        rules: ids of the rules to apply; by default all. Those that only refuse are always asked.
        dry_run: compute the outcome and write nothing.
        force: apply the others where a rule refuses, and record which did.
        code_from: a folder or Hub id whose Python files complete one that lacks them: a merge, or a checkpoint that
            4.48 saved.
        since: apply only the rules that this release or a later one needs; the folder is for no other.
        only: apply only the rules that these releases need.

    Raises:
        OpensciError: when the folder is no whole model, no rule recognises its code, a rule can't
            rewrite what it sees (naming rule, file and line), or the destination is not this tool's.

    """
    source = Path(src_dir).absolute()
    place, chosen = Path(dst_dir).absolute() if dst_dir else None, choose(rules, since, only)
    more: dict[str, Any] = {} if rules is None else {"rules": rules}  # of all nothing is said: others will come
    if since or only:
        more["releases"] = f"{since} and later" if since else ", ".join(only or [])
    if code_from is None:
        return _fixed(source, place, chosen, dry_run, force, more)
    with _completed(source, code_from) as (whole, commit):
        more["code"] = {code_from: commit}
        outcome = _fixed(whole, place or _default(source), chosen, dry_run, force, more)
    return replace(outcome, src_dir=str(source))


def _fixed(
    source: Path, place: Path | None, chosen: list[Rule], dry_run: bool, force: bool, more: dict[str, Any]
) -> Hotfix:
    source, target = check_model_folder(source), place or _default(source)
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise OpensciError(f"{target} lies in the folder to be fixed: choose another --dst_dir.")
    rewriting = rewrite(source, chosen)
    if rewriting.refused and not force:
        raise OpensciError(f"{rewriting.refused[0]} With --force the other rules are applied all the same.")
    changed = rewriting.after
    if not changed and not (source / RECORD).exists() and not rewriting.is_fixed:
        raise OpensciError(
            f"No rule recognises the code in {source} ({', '.join(rule.id for rule in chosen)} found nothing to do): "
            "is it an open-sci-ref model as published?"
        )
    nothing = place is None and not changed
    outcome = Hotfix(str(source), str(source if nothing else target), rewriting.applied, rewriting.diff)
    if dry_run:
        return outcome
    record = {
        "tool": f"opensci hotfix {version('opensci-lib')}",
        "sources": {file.name: _identity(file) for file in files(source) if file.name != RECORD},
        "applied": rewriting.applied,
        "changed": {name: digest(text.encode()) for name, text in changed.items()},
        **({"forced": rewriting.refused} if rewriting.refused else {}),
        **more,
    }
    if origin := _origin(source):
        record["origin"] = origin
    if nothing:
        if not (source / RECORD).exists():  # what save_pretrained leaves behind
            write_json(source / RECORD, record)
        return outcome
    with alone(target):  # another process may make it meanwhile: a run per release starts them at the same time
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
    outcome.written, outcome.left_out = True, left_out(source)
    return outcome


def _default(source: Path) -> Path:
    """Return where a fixed folder goes if nobody says."""
    return source.with_name(source.name.replace(".", "_") + "_fixed")


@contextmanager
def _completed(source: Path, code_from: str) -> Generator[tuple[Path, str | None]]:
    """Yield a copy of a folder with the code that it lacks, weights without a second copy, and the code's commit."""
    read_config(source)
    python, commit = download.code(code_from)
    with tempfile.TemporaryDirectory(prefix=f".{source.name}.", dir=source.parent) as place:
        whole = Path(place) / source.name
        whole.mkdir()
        for file in files(source):
            link(file, whole / file.name)
            os.utime(whole / file.name, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        add_code(python, whole)
        yield whole, commit


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
    if strange := foreign(target, found):
        raise OpensciError(
            f"{target} holds {', '.join(strange)}, which this tool did not write: move the folder, or set --dst_dir."
        )
    found.pop("proven", None)  # that was written later, by `prove`
    present = {file.name for file in files(target)} - {RECORD}
    return present == found["sources"].keys() | found["changed"] and found | {"tool": record["tool"]} == record


def foreign(folder: Path, record: dict[str, Any]) -> list[str]:
    """Return the names of the files in a fixed folder that are not as its record says."""
    written = record["sources"] | {name: {"sha256": known} for name, known in record["changed"].items()}
    present = sorted({file.name for file in files(folder)} - {RECORD})
    return [name for name in present if name not in written or not _is(folder / name, written[name])]


def _origin(source: Path) -> dict[str, Any] | None:
    """Return which model, revision and commit on the Hub a folder was downloaded from, as far as that is recorded."""
    found = read_json(source / DOWNLOAD_RECORD) if (source / DOWNLOAD_RECORD).exists() else {}
    return {key: found[key] for key in ("model", "revision", "commit")} if found.get("commit") else None


def _identity(file: Path) -> dict[str, Any]:
    """Say which file this is: small ones by content, weights by size and time, since reading them would take long."""
    if file.suffix == ".safetensors":
        status = file.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    with file.open("rb") as content:
        return {"sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def _is(file: Path, identity: dict[str, Any]) -> bool:
    """Say whether a file is a copy of the one so identified; a copy's time is its own."""
    return _identity(file) | {"mtime_ns": 0} == identity | {"mtime_ns": 0}
