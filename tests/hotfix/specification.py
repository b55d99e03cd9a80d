"""What the rules' tests are written in: whole little sources that a rule changes, leaves alone, or refuses."""

import json

import pytest

from opensci_lib.hotfix.edit import apply
from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.rules import RULES
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import Source, UnrecognisedError


def rule(name: str) -> Rule:
    return next(rule for rule in RULES if rule.id == name)


def rewritten(name: str, source: str, **others: str) -> str:
    """Return `source` after a rule; `others` are the folder's other files by role, as text."""
    return apply(source, [(name, edit) for edit in rule(name).edits(_sources(name, source, others))])


def check_transformed(name: str, before: str, after: str, **others: str) -> None:
    """The rule turns `before` into `after`, which is Python or JSON, and then has nothing left to do."""
    assert rewritten(name, before, **others) == after
    (json.loads if rule(name).target.endswith("config") else _compile)(after)
    check_noop(name, after, **others)


def check_noop(name: str, source: str, **others: str) -> None:
    assert list(rule(name).edits(_sources(name, source, others))) == []


def check_unrecognised(name: str, source: str, line: int, **others: str) -> None:
    """The rule sees its symptom, can't rewrite it, and says where."""
    with pytest.raises(UnrecognisedError) as caught:
        list(rule(name).edits(_sources(name, source, others)))
    assert caught.value.node.lineno == line
    assert caught.value.what


def _compile(source: str) -> None:
    compile(source, "source", "exec")


def _sources(name: str, source: str, others: dict[str, str]) -> Sources:
    texts = {"modeling": "", "config": "{}", **others, rule(name).target: source}
    return Sources(
        modeling=Source(texts["modeling"]),
        configuration=Source(texts["configuration"]) if "configuration" in texts else None,
        config=Settings(texts["config"]),
        tokenizer_config=Settings(texts["tokenizer_config"]) if "tokenizer_config" in texts else None,
        tokenizer=Settings(texts["tokenizer"]) if "tokenizer" in texts else None,
    )
