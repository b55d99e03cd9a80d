"""What holds for every rule."""

import pytest

from opensci_lib.hotfix.rules import RULES
from tests.hotfix.specification import check_transformed, check_unrecognised, rule


@pytest.mark.parametrize("name", [rule.id for rule in RULES])
def test_the_rule_does_what_its_own_example_says(name):
    shown = rule(name)
    if shown.after is None:
        check_unrecognised(name, shown.before, shown.before.count("\n"), **shown.others)
    else:
        check_transformed(name, shown.before, shown.after, **shown.others)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_rule_introduces_itself(rule):
    assert rule.edits.__module__.endswith(f".rules.{rule.id.replace('-', '_')}")
    assert rule.cause.endswith(".")
    assert rule.releases
    assert all(name.startswith("TRF") for name in rule.trf)
