"""What the README says of the rules and releases is what the code says."""

from pathlib import Path

from opensci_lib import kernels
from opensci_lib.hotfix import all_rules

README = (Path(__file__).parents[1] / "README.md").read_text()


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
