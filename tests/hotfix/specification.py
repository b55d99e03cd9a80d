"""What the rules' tests are written in: whole little sources that a rule changes, leaves alone, or refuses."""

import json

import libcst as cst
import pytest

from opensci_lib.hotfix.rule import Rule, Sources, all_rules
from opensci_lib.hotfix.tree import Tree, UnrecognisedError


def rule(name: str) -> Rule:
    return next(rule for rule in all_rules() if rule.id == name)


def rewritten(name: str, source: str, **others: str) -> str:
    """Return `source` after a rule; `others` are the folder's other files by role, as text."""
    result = rule(name).rewrite(_sources(name, source, others))
    if result is None:
        return source
    return result.code if isinstance(result, cst.Module) else json.dumps(result)


def check_transformed(name: str, before: str, after: str, **others: str) -> None:
    """The rule turns `before` into `after`, which is Python or JSON, and then has nothing left to do."""
    assert rewritten(name, before, **others) == after
    (json.loads if rule(name).target.endswith("config") else _compile)(after)
    check_noop(name, after, **others)


def check_noop(name: str, source: str, **others: str) -> None:
    assert rule(name).rewrite(_sources(name, source, others)) is None


def check_unrecognised(name: str, source: str, line: int, **others: str) -> None:
    """The rule sees its symptom, can't rewrite it, and says where."""
    sources = _sources(name, source, others)
    with pytest.raises(UnrecognisedError) as caught:
        rule(name).rewrite(sources)
    tree = getattr(sources, rule(name).target)
    assert (tree if isinstance(tree, Tree) else sources.modeling).line(caught.value.node) == line
    assert caught.value.what


def _compile(source: str) -> None:
    compile(source, "source", "exec")


def _sources(name: str, source: str, others: dict[str, str]) -> Sources:
    texts = {"modeling": "", **others, rule(name).target: source}
    return Sources(
        modeling=Tree(texts["modeling"]),
        configuration=Tree(texts["configuration"]) if "configuration" in texts else None,
        config=json.loads(texts.get("config", "{}")),
        tokenizer_config=json.loads(texts["tokenizer_config"]) if "tokenizer_config" in texts else None,
    )
