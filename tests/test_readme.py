"""What the README says of the rules and releases is what the code says."""

from pathlib import Path

import pandas as pd

from opensci_lib import kernels
from opensci_lib.compat import support_table
from opensci_lib.hotfix import all_rules
from opensci_lib.reports import findings, scores
from opensci_lib.runs import ascending

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_rule_has_its_row():
    rows = [line for line in README.splitlines() if line.startswith("| `") and line.count("|") == 5]
    expected = [
        f"| `{rule.id}` | {rule.releases} | {rule.cause} | {', '.join(rule.trf)} |".replace("|  |", "| |")
        for rule in all_rules()
    ]
    assert rows == expected


def test_the_newest_release_is_named():
    newest = kernels.available()[-1]
    assert f"4.48 to {'.'.join(newest.split('.')[:2])}" in README


def test_the_table_of_features_is_what_was_measured():
    measured = pd.read_csv(ROOT / "docs" / "compat.csv", dtype={"tf_version": str})
    assert support_table(measured) in README
    assert list(measured["tf_version"].unique()) == kernels.available()
    assert "fails" not in set(measured[measured["variant"] == "fixed"]["result"])


def test_the_scores_are_what_the_report_says_of_the_table():
    """In the report's own words, put together again from what was measured."""
    measured = pd.read_csv(ROOT / "docs" / "evaluation.csv", dtype={"tf_version": str})
    [fixed] = [sentence for sentence in scores.verdict(measured) if sentence.startswith("**fixed**")]
    assert f"\n> {fixed}\n" in README
    facts = measured[measured["task"] == "opensci_facts"].set_index(["tf_version", "variant"])["score"]
    minimal = facts.xs("minimal", level="variant")
    early, later = minimal.loc[["5.0.0", "5.1.0"]], minimal.drop(["5.0.0", "5.1.0"])
    whole, low, high, first, second = (
        f"{score:.0%}".replace("%", " %") for score in (facts["4.48.0", "original"], later.min(), later.max(), *early)
    )
    assert f"from {whole} of the facts to between {low} and {high} on 5.2 to 5.23" in README
    assert f"and to {first} and {second}, about a guess" in README


def test_the_releases_are_what_the_picture_says_of_the_table():
    measured = pd.read_csv(ROOT / "docs" / "parity.csv", dtype={"tf_version": str})
    assert f"\n> {findings.equal_releases(measured)}\n" in README
    assert ascending(measured["tf_version"]) == kernels.available()
    assert f"all {len(kernels.available())} locked releases" in README
