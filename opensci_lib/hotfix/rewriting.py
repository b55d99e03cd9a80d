"""What the rules make of a model folder's texts: every edit is made to the source, all of a file's at once."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.edit import Asked, apply
from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.rules import RULES
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import WIDTH, Source, UnrecognisedError, parse
from opensci_lib.model_folder import code_files, read_config, read_json

Parsed = TypeVar("Parsed")

#: The fields of `Sources`, in the order in which they are rewritten: rules for code see the finished settings.
_STAGES = (("config", "tokenizer_config"), ("modeling", "configuration"))
#: Windows editors put it before the first line.
_MARK = "\ufeff"
_NOTICE = "# Changed by opensci hotfix"
_OPENING = re.compile(r"(?:#[^\r\n]*(?:\r\n|\r|\n))*")


@dataclass
class Rewriting:
    """The texts of a model folder, by file name."""

    before: dict[str, str]
    #: Only what changed.
    after: dict[str, str] = field(default_factory=dict)
    #: Rule id to the file that it changed.
    applied: dict[str, str] = field(default_factory=dict)


def choose(ids: list[str] | None) -> list[Rule]:
    """Return the rules of some ids, in their own order, or all."""
    known = {rule.id: rule for rule in RULES}
    if unknown := [name for name in ids or [] if name not in known]:
        raise OpensciError(f"Unknown rule {', '.join(unknown)}: the rules are {', '.join(known)}.")
    return [rule for rule in RULES if ids is None or rule.id in ids]


def rewrite(folder: Path, rules: list[Rule]) -> Rewriting:
    """Return what the texts of a model folder are, and what they become under some rules."""
    paths = _paths(folder, read_config(folder))
    texts = {role: _read(path) for role, path in paths.items()}
    result = Rewriting({paths[role].name: text for role, text in texts.items()})
    for targets in _STAGES:
        sources = _sources(texts, paths)
        asked: dict[Path, list[Asked]] = defaultdict(list)  # one file may hold model and configuration
        for rule in rules:
            if rule.target in targets and rule.target in texts and (edits := _edits(rule, sources, paths)):
                asked[paths[rule.target]] += edits
                result.applied[rule.id] = paths[rule.target].name
        for path, edits in asked.items():
            result.after[path.name] = _applied(result.before[path.name], edits, path)
        texts = {role: result.after.get(path.name, texts[role]) for role, path in paths.items()}
    result.applied = {rule.id: result.applied[rule.id] for rule in rules if rule.id in result.applied}
    return result


def _paths(folder: Path, config: dict[str, Any]) -> dict[str, Path]:
    """Return the folder's files by field of `Sources`."""
    paths = {"config": folder / "config.json"}
    for role in ("tokenizer_config", "tokenizer"):
        if (folder / f"{role}.json").exists():
            paths[role] = folder / f"{role}.json"
    auto_map = config.get("auto_map", {})
    for role, key in (("modeling", "AutoModelForCausalLM"), ("configuration", "AutoConfig")):
        if key in auto_map and (found := code_files(folder, {"auto_map": {key: auto_map[key]}})):
            paths[role] = found[0]
    if "modeling" not in paths:
        raise OpensciError(
            f"{folder}/config.json names no modelling file (auto_map.AutoModelForCausalLM): "
            "a model without code of its own needs no hotfix."
        )
    return paths


def _read(path: Path) -> str:
    if path.suffix == ".json":
        read_json(path)  # says what is wrong with it
    try:
        return path.read_bytes().decode("utf-8")  # bytes, to keep the file's own line ends
    except UnicodeDecodeError as error:
        raise OpensciError(f"{path} is not text in UTF-8: download the model again.") from error


def _sources(texts: dict[str, str], paths: dict[str, Path]) -> Sources:
    code = {role: _parsed(Source, text, paths[role]) for role, text in texts.items() if paths[role].suffix == ".py"}
    settings = {role: _parsed(Settings, text, paths[role]) for role, text in texts.items() if role not in code}
    others = (settings.get(role) for role in ("tokenizer_config", "tokenizer"))
    return Sources(code["modeling"], code.get("configuration"), settings["config"], *others)


def _parsed(kind: Callable[[str], Parsed], text: str, path: Path, cure: str = "download the model again") -> Parsed:
    try:
        return kind(text.removeprefix(_MARK))
    except SyntaxError as error:
        raise OpensciError(f"{path} is not valid Python (line {error.lineno}: {error.msg}): {cure}.") from error
    except (RecursionError, MemoryError) as error:
        raise OpensciError(f"{path} is nested too deeply to be read: {cure}.") from error
    except ValueError as error:
        raise OpensciError(f"{path} can't be read ({error}): {cure}.") from error


def _edits(rule: Rule, sources: Sources, paths: dict[str, Path]) -> list[Asked]:
    try:
        return [(rule.id, edit) for edit in rule.edits(sources)]
    except UnrecognisedError as error:
        path = paths[rule.target if paths[rule.target].suffix == ".py" else "modeling"]
        raise OpensciError(
            f"Rule {rule.id} can't rewrite {path}, line {error.node.lineno}: {error.what}. "
            "Leave the rule out with --rules, or bring the line into a form that the rule knows."
        ) from error


def _applied(text: str, asked: list[Asked], path: Path) -> str:
    """Return a text with edits made in it, and check that it can be read."""
    bare = text.removeprefix(_MARK)
    changed = apply(bare, asked, str(path))
    ids = list(dict.fromkeys(rule for rule, _ in asked))
    is_code = path.suffix == ".py"
    cure = f"it was until {', '.join(ids)} changed it, so leave the rule out with --rules"
    _parsed(parse if is_code else Settings, changed, path, cure)
    return text[: -len(bare)] + (_with_header(changed, text, ids) if is_code else changed)


def is_fixed(texts: Iterable[str]) -> bool:
    """Say whether one of a folder's texts bears the notice of change: `save_pretrained` keeps it, but no record."""
    return any(line.startswith(_NOTICE) for text in texts for line in text.splitlines()[:99])


def _with_header(changed: str, original: str, rules: list[str]) -> str:
    """Add the notice of change that the Apache licence asks for (section 4b), below the file's own first comment."""
    newline = "\r\n" if "\r\n" in changed else "\n"
    notice = textwrap.wrap(
        f"{_NOTICE} {version('opensci-lib')}: {', '.join(rules)}.",
        WIDTH,
        subsequent_indent="#   ",
        break_on_hyphens=False,
    )
    notice.append(f"# The source's sha256 was {digest(original.encode())}.")
    opening = _OPENING.match(changed)
    place = opening.end() if opening else 0
    gap = f"#{newline}" if place else ""
    return changed[:place] + gap + "".join(line + newline for line in notice) + changed[place:]


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()
