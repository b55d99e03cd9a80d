"""Rewrite a model folder once, statically, into one that loads and computes right on every release.

The folder is untrusted: its files are parsed, never imported and never run. The rewrites are in
`opensci_lib.hotfix.rules`; this engine knows none of them by name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import libcst as cst
from filelock import FileLock

from opensci_lib import project
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.rule import Rule, Sources, all_rules
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, parse
from opensci_lib.model_folder import (
    appearing,
    check_model_folder,
    code_files,
    files,
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


def hotfix(
    src_dir: Path | str,
    dst_dir: Path | str | None = None,
    rules: list[str] | None = None,
    dry_run: bool = False,
) -> Hotfix:
    """Write a fixed copy of the model folder `src_dir` to `dst_dir`, the weights without a second copy of them.

    Args:
        src_dir: a model folder. It is not changed, but that weights which both folders share become read-only (see
            `model_folder.link`). A folder that was fixed before needs nothing.
        dst_dir: where to write; by default `src_dir` with `_fixed` appended. It appears whole or
            not at all, and is left as it is when it is up to date.
        rules: ids of the rules to apply; by default all.
        dry_run: compute the outcome and write nothing.

    Raises:
        OpensciError: when the folder is no whole model, no rule recognises its code, a rule can't
            rewrite what it sees (naming rule, file and line), or the destination is not this tool's.

    """
    source = check_model_folder(src_dir)
    chosen = _choose(rules)
    target = Path(dst_dir).absolute() if dst_dir else source.with_name(source.name + "_fixed")
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise OpensciError(f"{target} lies in the folder to be fixed: choose another --dst_dir.")
    record = {
        "tool": f"opensci hotfix {version('opensci-lib')}",
        "tool_sha256": project.code_digest(Path(__file__).parent),  # what older rules made is made again
        "rules": [rule.id for rule in chosen],
        "sources": {file.name: _identity(file) for file in files(source) if file.name != RECORD},
    }
    if not dry_run and (made := _up_to_date(source, target, record)):
        return made
    originals, changed, applied = _rewrite(source, chosen)
    already_fixed = (source / RECORD).exists()
    if not changed and not already_fixed:
        raise OpensciError(
            f"No rule recognises the code in {source} ({', '.join(rule.id for rule in chosen)} found nothing to do): "
            "is it an open-sci-ref model as published?"
        )
    if dst_dir is None and not changed:
        return Hotfix(str(source), str(source), {}, "")
    diff = "".join(_diff(name, originals[name], text) for name, text in changed.items())
    outcome = Hotfix(str(source), str(target), applied, diff)
    if dry_run:
        return outcome
    record["applied"] = applied
    record["changed"] = {name: _digest(text.encode()) for name, text in changed.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        # another process may have made it meanwhile: a run per release starts them at the same time
        if made := _up_to_date(source, target, record):
            return made
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


def _up_to_date(source: Path, target: Path, record: dict[str, Any]) -> Hotfix | None:
    """Return the outcome if `target` is what these rules make of this source, or None if it must be made.

    A file that is gone is a reason to make the folder again; one that was edited is not replaced. Weights are known
    by their size, and in the source by their time too: others of the same size and time are taken for the same.

    Raises:
        OpensciError: when replacing what stands there would lose something that this tool did not make.

    """
    if not os.path.lexists(target):
        return None
    if not (target / RECORD).is_file():
        raise OpensciError(f"{target} exists and is not a folder that this tool made: move it, or set --dst_dir.")
    found = read_json(target / RECORD)
    present = {file.name for file in files(target)} - {RECORD}
    written = found["sources"] | {name: {"sha256": digest} for name, digest in found["changed"].items()}
    foreign = {name for name in present if name not in written or not _is(target / name, written[name])}
    if foreign:
        raise OpensciError(
            f"{target} holds {', '.join(sorted(foreign))}, which this tool did not write: "
            "move the folder, or set --dst_dir."
        )
    if present != written.keys() or any(found.get(key) != value for key, value in record.items()):
        return None
    diff = "".join(
        _diff(name, *((folder / name).read_bytes().decode() for folder in (source, target)))
        for name in found["changed"]
    )
    return Hotfix(str(source), str(target), found["applied"], diff)


def _choose(ids: list[str] | None) -> list[Rule]:
    known = {rule.id: rule for rule in all_rules()}
    if unknown := [name for name in ids or [] if name not in known]:
        raise OpensciError(f"Unknown rule {', '.join(unknown)}: the rules are {', '.join(known)}.")
    return [rule for rule in known.values() if ids is None or rule.id in ids]


def _rewrite(folder: Path, rules: list[Rule]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return (original texts, changed texts, rule id to changed file) of a folder under some rules."""
    config = read_config(folder)
    roles = {**_code_roles(folder, config), "config": folder / "config.json"}
    if (folder / "tokenizer_config.json").exists():
        roles["tokenizer_config"] = folder / "tokenizer_config.json"
    originals = {role: _read(path) for role, path in roles.items()}
    texts, applied = dict(originals), {}
    for rule in rules:
        try:
            rewritten = _apply(rule, texts, roles)
        except OpensciError:
            _apply(rule, originals, roles)  # names the line as it stands in the source, not as other rules left it
            raise
        if rewritten is not None and rewritten != texts[rule.target]:
            texts[rule.target] = rewritten
            applied[rule.id] = roles[rule.target].name
    changed = {}
    for role, path in roles.items():
        if texts[role] != originals[role]:
            done = [rule for rule, name in applied.items() if name == path.name]
            is_code = path.suffix == ".py"
            changed[path.name] = _with_header(texts[role], originals[role], done) if is_code else texts[role]
    return {path.name: originals[role] for role, path in roles.items()}, changed, applied


def _code_roles(folder: Path, config: dict[str, Any]) -> dict[str, Path]:
    """Return which file defines the model and which the configuration."""
    roles = {}
    auto_map = config.get("auto_map", {})
    for role, key in (("modeling", "AutoModelForCausalLM"), ("configuration", "AutoConfig")):
        if key in auto_map and (found := code_files(folder, {"auto_map": {key: auto_map[key]}})):
            roles[role] = found[0]
    if "modeling" not in roles:
        raise OpensciError(
            f"{folder}/config.json names no modelling file (auto_map.AutoModelForCausalLM): "
            "a model without code of its own needs no hotfix."
        )
    return roles


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # bytes, to keep the file's own line ends
    except UnicodeDecodeError as error:
        raise OpensciError(f"{path} is not text in UTF-8: download the model again.") from error


def _apply(rule: Rule, texts: dict[str, str], roles: dict[str, Path]) -> str | None:
    """Return the new text of the file that the rule works on, or None where it has nothing to do."""
    if rule.target not in texts:
        return None
    trees = {role: _parse(texts[role], roles[role]) for role in ("modeling", "configuration") if role in texts}
    objects = {role: json.loads(texts[role]) for role in ("config", "tokenizer_config") if role in texts}
    sources = Sources(
        trees["modeling"], trees.get("configuration"), objects["config"], objects.get("tokenizer_config")
    )
    try:
        new = rule.rewrite(sources)
    except UnrecognisedError as error:
        tree_role = rule.target if rule.target in trees else "modeling"
        line = trees[tree_role].line(error.node)
        raise OpensciError(
            f"Rule {rule.id} can't rewrite {roles[tree_role]}, line {line}: {error.what}. "
            "Leave the rule out with --rules, or bring the line into a form that the rule knows."
        ) from error
    if new is None:
        return None
    return new.code if isinstance(new, cst.Module) else json.dumps(new, indent=2, ensure_ascii=False) + "\n"


def _parse(text: str, path: Path) -> Tree:
    try:
        return parse(text)
    except cst.ParserSyntaxError as error:
        raise OpensciError(
            f"{path} is not valid Python (line {error.raw_line}): download the model again."
        ) from error


def _with_header(text: str, original: str, rules: list[str]) -> str:
    """Add the notice of change that the Apache licence asks for (section 4b), below the file's own first comment."""
    newline = "\r\n" if "\r\n" in original else "\n"
    digest = _digest(original.encode())
    notice = [
        f"# Changed by opensci hotfix {version('opensci-lib')}: {', '.join(rules)}.",
        f"# The source's sha256 was {digest}.",
    ]
    lines = text.split(newline)
    comment = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    gap = ["#"] if comment else []
    return newline.join([*lines[:comment], *gap, *notice, *lines[comment:]])


def _diff(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _identity(file: Path) -> dict[str, Any]:
    """Say which file this is: small ones by content, weights by size and time, since reading them would take long."""
    if file.suffix == ".safetensors":
        status = file.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return {"sha256": _digest(file.read_bytes())}


def _is(file: Path, identity: dict[str, Any]) -> bool:
    """Say whether a file is a copy of the one so identified; a copy's time is its own."""
    return _identity(file) | {"mtime_ns": 0} == identity | {"mtime_ns": 0}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
