"""What the README says of the rules and releases is what the code says."""

from pathlib import Path

import pandas as pd
import pytest

from opensci_lib import kernels
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


@pytest.mark.parametrize(
    ("major", "variant", "equal"),
    [("4.", "original", True), ("4.", "fixed", True), ("5.", "minimal", False), ("5.", "fixed", True)],
)
def test_the_table_of_releases_is_what_was_measured(major, variant, equal):
    measured = pd.read_csv(ROOT / "docs" / "parity.csv", dtype={"tf_version": str})
    rows = measured[measured["tf_version"].str.startswith(major) & (measured["variant"] == variant)]
    locked = [release for release in kernels.available() if release.startswith(major)]
    assert sorted(rows["tf_version"].unique()) == sorted(locked)
    assert (rows.groupby("tf_version")["bitwise_equal"].all() == equal).all()
