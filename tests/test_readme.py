"""What the README says of the rules and releases is what the code says."""

from pathlib import Path

import pandas as pd
import pytest

from opensci_lib import kernels
from opensci_lib.compat import support_table
from opensci_lib.hotfix import all_rules

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


def test_the_scores_are_what_was_measured():
    measured = pd.read_csv(ROOT / "docs" / "evaluation.csv", dtype={"tf_version": str})
    assert measured.groupby("variant")["equal"].all().to_dict() == {"fixed": True, "original": True, "minimal": False}
    facts = measured[measured["task"] == "opensci_facts"].set_index(["tf_version", "variant"])["score"]
    said = [facts["4.48.0", "original"], facts["5.2.0", "minimal"], facts["5.0.0", "minimal"]]
    assert [f"{score:.0%}" for score in said] == ["99%", "70%", "26%"]


@pytest.mark.parametrize(
    ("major", "variant", "equal"),
    [("4.", "original", True), ("4.", "fixed", True), ("5.", "minimal", False), ("5.", "fixed", True)],
)
def test_the_picture_of_releases_shows_what_the_readme_says(major, variant, equal):
    measured = pd.read_csv(ROOT / "docs" / "parity.csv", dtype={"tf_version": str})
    rows = measured[measured["tf_version"].str.startswith(major) & (measured["variant"] == variant)]
    locked = [release for release in kernels.available() if release.startswith(major)]
    assert sorted(rows["tf_version"].unique()) == sorted(locked)
    assert (rows.groupby("tf_version")["bitwise_equal"].all() == equal).all()
