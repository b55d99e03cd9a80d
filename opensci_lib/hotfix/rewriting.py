"""What the rules make of a model folder's texts: every edit is made to the source, all of a file's at once."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.edit import Asked, apply
from opensci_lib.hotfix.remainder import first_change
from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.rules import RULES
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import Source, UnrecognisedError, parse
from opensci_lib.limits import within_limits
from opensci_lib.model_folder import classes, code_files, foreign_code, read_config, read_settings, read_text

Parsed = TypeVar("Parsed")

#: The targets of rules, in the order in which they are rewritten: rules for code see the finished settings.
_STAGES = (("config", "tokenizer_config"), ("modeling", "configuration"))
#: Windows editors put it before the first line.
_MARK = "\ufeff"
_NOTICE = "# Changed by opensci hotfix"
_RELEASE = re.compile(r"\d+\.\d+(\.\d+)?")
_OPENING = re.compile(r"(?:#[^\r\n]*(?:\r\n|\r|\n))*")


@dataclass
class Rewriting:
    """The texts of a model folder, by file name."""

    before: dict[str, str]
    #: Only what changed.
    after: dict[str, str] = field(default_factory=dict)
    #: Rule id to the files that it changed.
    applied: dict[str, str] = field(default_factory=dict)
    #: Unified diff of what changed.
    diff: str = ""
    #: What rules that only refuse say, each a sentence.
    refused: list[str] = field(default_factory=list)

    @property
    def is_fixed(self) -> bool:
        """Whether the code says that it was rewritten before, as it does where a repository took the change over."""
        return any(_NOTICE in text for text in self.before.values())


def choose(ids: list[str] | None, since: str | None = None, only: list[str] | None = None) -> list[Rule]:
    """Return the rules of some ids, or all, that some releases need, in their own order."""
    known = {rule.id: rule for rule in RULES}
    if unknown := [name for name in ids or [] if name not in known]:
        raise OpensciError(f"Unknown rule {', '.join(unknown)}: the rules are {', '.join(known)}.")
    if odd := [release for release in [since, *(only or [])] if release and not _RELEASE.fullmatch(release)]:
        raise OpensciError(f"{odd[0]!r} is no release of transformers: give one such as 4.57 or 5.2.0.")
    if since and only:
        raise OpensciError("--since and --only exclude one another: give one of them.")
    spans = [(since or "0.0", None)] if not only else [(release, release) for release in only]
    chosen = [rule for rule in RULES if ids is None or rule.id in ids]
    return [rule for rule in chosen if any(rule.concerns(*span) for span in spans)]


def rewrite(folder: Path, rules: list[Rule]) -> Rewriting:
    """Return what the texts of a model folder are, and what they become under some rules.

    Rules that only refuse are always asked.

    Raises:
        OpensciError: when a text can't be read, does not hold what config.json names in it, is too much for the
            limits, or when a rule can't rewrite what it sees.

    """
    return Rewriting(**within_limits(lambda: vars(_rewrite(folder, rules)), f"The code in {folder}"))


def _rewrite(folder: Path, rules: list[Rule]) -> Rewriting:
    asking = [*rules, *(rule for rule in RULES if rule.after is None and rule not in rules)]
    config = read_config(folder)
    places = _places(folder, config)
    texts = {path: _read(path) for paths in places.values() for path in paths}
    result = Rewriting({path.name: text for path, text in texts.items()})
    for targets in _STAGES:
        parsed = {path: _parsed(Source if path.suffix == ".py" else Settings, texts[path], path) for path in texts}
        _check_classes(classes(folder, config), parsed)
        asked: dict[Path, list[Asked]] = defaultdict(list)  # one file may hold model and configuration
        for rule in asking:
            for path in places.get(rule.target, []) if rule.target in targets else []:
                sources = _sources(parsed, places, path)
                if rule.after is None:
                    result.refused += _refusals(rule, sources, path)
                elif edits := _edits(rule, sources, path):
                    asked[path] += edits
                    before = f"{known}, " if (known := result.applied.get(rule.id)) else ""
                    result.applied[rule.id] = before + path.name
        for path, edits in asked.items():
            texts[path] = result.after[path.name] = _applied(texts[path], edits, path)
    result.applied = {rule.id: result.applied[rule.id] for rule in rules if rule.id in result.applied}
    result.diff = "".join(unified(name, result.before[name], text) for name, text in result.after.items())
    return result


def _places(folder: Path, config: dict[str, Any]) -> dict[str, list[Path]]:
    """Return the folder's files by what rules call them; of the modelling code that with the causal model first."""
    places = {"config": [folder / "config.json"]}
    for role in ("tokenizer_config", "tokenizer"):
        if (folder / f"{role}.json").exists():
            places[role] = [folder / f"{role}.json"]
    auto_map = config.get("auto_map", {})
    first = {
        key: code_files(folder, {"auto_map": {key: auto_map[key]}})[:1]
        for key in ("AutoModelForCausalLM", "AutoConfig")
        if key in auto_map
    }
    if not first.get("AutoModelForCausalLM"):
        for repository, names in foreign_code(folder, config).items():
            raise OpensciError(
                f"{folder}/config.json takes its code from {repository}, but lacks {' and '.join(names)} of it: "
                f"put them into the folder, or let `--code_from {repository}` do it."
            )
        raise OpensciError(
            f"{folder}/config.json names no modelling file (auto_map.AutoModelForCausalLM): "
            "a model without code of its own needs no hotfix."
        )
    configuration = first.get("AutoConfig", [])
    rest = [path for path in code_files(folder, config) if path not in configuration]
    places["modeling"] = list(dict.fromkeys([*first["AutoModelForCausalLM"], *rest]))
    if configuration:
        places["configuration"] = configuration
    return places


def _read(path: Path) -> str:
    if path.suffix == ".json":
        read_settings(path)  # says what is wrong with it
    return read_text(path)


def _check_classes(named: dict[Path, list[str]], parsed: dict[Path, Any]) -> None:
    """Check that the files hold the classes that config.json says are in them."""
    for path, names in named.items():
        if path in parsed and (missing := [name for name in names if not parsed[path].binds(name)]):
            raise OpensciError(
                f"{path} has no class {missing[0]}, which config.json names: download the model again."
            )


def _sources(parsed: dict[Path, Any], places: dict[str, list[Path]], at: Path) -> Sources:
    """Return what rules see that work on the file `at`."""
    code = {path.stem: parsed[path] for path in places["modeling"]}
    one = {role: parsed[paths[0]] for role, paths in places.items()}
    if at in places["modeling"]:
        one["modeling"] = parsed[at]
    tokenizer = one.get("tokenizer_config"), one.get("tokenizer")
    return Sources(one["modeling"], one.get("configuration"), one["config"], tokenizer[0], code, tokenizer[1])


def _parsed(kind: Callable[[str], Parsed], text: str, path: Path, cure: str = "download the model again") -> Parsed:
    try:
        return kind(text.removeprefix(_MARK))
    except SyntaxError as error:
        raise OpensciError(f"{path} is not valid Python (line {error.lineno}: {error.msg}): {cure}.") from error
    except (RecursionError, MemoryError) as error:
        raise OpensciError(f"{path} is nested too deeply to be read: {cure}.") from error
    except ValueError as error:
        raise OpensciError(f"{path} can't be read ({error}): {cure}.") from error


def _edits(rule: Rule, sources: Sources, path: Path) -> list[Asked]:
    try:
        return [(rule.id, edit) for edit in rule.edits(sources)]
    except UnrecognisedError as error:
        raise OpensciError(
            f"Rule {rule.id} can't rewrite {path}, line {error.node.lineno}: {error.what}. "
            "Leave the rule out with --rules, or bring the line into a form that the rule knows."
        ) from error


def _refusals(rule: Rule, sources: Sources, path: Path) -> list[str]:
    try:
        list(rule.edits(sources))
    except UnrecognisedError as error:
        return [f"Rule {rule.id} refuses {path}, line {error.node.lineno}: {error.what}."]
    return []


def _applied(text: str, asked: list[Asked], path: Path) -> str:
    """Return a text with edits made in it, and check that it can be read and is otherwise what it was."""
    bare = text.removeprefix(_MARK)
    changed = apply(bare, asked, str(path))
    ids = list(dict.fromkeys(rule for rule, _ in asked))
    is_code = path.suffix == ".py"
    cure = f"it was right until {', '.join(ids)} changed it, so leave the rule out with --rules"
    _parsed(parse if is_code else Settings, changed, path, cure)
    if line := first_change(bare, changed, [edit for _, edit in asked], is_code):
        raise OpensciError(f"{path}, line {line}, would change though no rule asks for it: {cure}.")
    return text[: -len(bare)] + (_with_notice(changed, text) if is_code else changed)


def _with_notice(changed: str, original: str) -> str:
    """Add the notice of change that the Apache licence asks for (section 4b), below the file's own first comment."""
    newline = "\r\n" if "\r\n" in changed else "\n"
    notice = f"{_NOTICE} {version('opensci-lib')}, of sha256 {digest(original.encode())}.{newline}"
    opening = _OPENING.match(changed)
    place = opening.end() if opening else 0
    return changed[:place] + notice + changed[place:]


def unified(name: str, before: str, after: str) -> str:
    """Return the unified diff of a file."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()
