"""What holds for every rule."""

import re
from dataclasses import replace

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
    span = r"\d\.\d+( and later| (to|and) \d\.\d+)?( \(\w+\))?"
    assert re.fullmatch(rf"all|{span}(, {span})*", rule.releases)
    assert all(name.startswith("TRF") for name in rule.trf)


@pytest.mark.parametrize(
    ("releases", "concerned"),
    [
        ("all", ["4.48.0", "4.57", "5.2", "5.10.4"]),
        ("5.2", ["5.2"]),
        ("4.48 and 4.49", ["4.48.0"]),
        ("5.1 to 5.9", ["5.2"]),
        ("4.57 and later", ["4.57", "5.2", "5.10.4"]),
        ("5.3 and later", ["5.10.4"]),
        ("5.10 and later (X), 4.48 to 4.53 (Y)", ["4.48.0", "5.10.4"]),
    ],
)
def test_releases_are_said_so_that_they_can_be_asked(releases, concerned):
    said = replace(RULES[0], releases=releases)
    asked = ["4.48.0", "4.57", "5.2", "5.10.4"]
    assert [release for release in asked if said.concerns(release, release)] == concerned


@pytest.mark.parametrize(
    ("releases", "first", "concerned"),
    [
        ("5.4 to 5.12", "5.12.1", True),
        ("5.4 to 5.12", "5.13", False),
        ("5.4 and later", "5.23", True),
        ("5.3", "4.48", True),
    ],
)
def test_later_releases_are_asked_for_too(releases, first, concerned):
    assert replace(RULES[0], releases=releases).concerns(first) == concerned
