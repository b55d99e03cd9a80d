"""What the README says of the rules and releases is what the code says."""

import json
from pathlib import Path

import pandas as pd

from opensci_lib import kernels
from opensci_lib.compat import support_table
from opensci_lib.hotfix import all_rules
from opensci_lib.hotfix.rules.__main__ import page
from opensci_lib.reports import findings, scores
from opensci_lib.runs import ascending

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
#: Its paragraphs, each on one line.
UNWRAPPED = README.replace("\n> ", " ").replace("\n", " ").replace("  ", " > ")


def test_the_page_of_rules_is_what_the_rules_say():
    assert (ROOT / "docs" / "rules.md").read_text() == page()
    for rule in all_rules():
        assert f"| [`{rule.id}`](#{rule.id}) | {rule.releases} | {rule.cause} |" in page()


def test_the_pull_request_says_of_its_rules_what_they_say():
    """`benchmarks/diff.py` wrote it, on files that are not here."""
    page = (ROOT / "docs" / "pull_request.md").read_text()
    named = [rule for rule in all_rules() if f"(`{rule.id}`)" in page]
    assert len(named) > 15
    for rule in named:
        assert f"\n- **{rule.releases}**: {rule.cause} (`{rule.id}`)\n" in page


def test_the_newest_release_is_named():
    newest = kernels.available()[-1]
    assert f"4.48 to {'.'.join(newest.split('.')[:2])}" in README


def test_the_table_of_features_is_what_was_measured():
    measured = pd.read_csv(ROOT / "docs" / "compat.csv", dtype={"tf_version": str})
    assert support_table(measured) in (ROOT / "docs" / "features.md").read_text()
    assert list(measured["tf_version"].unique()) == kernels.available()
    assert "fails" not in set(measured[measured["variant"] == "fixed"]["result"])


def test_the_scores_are_what_the_report_says_of_the_table():
    """In the report's own words, put together again from what was measured."""
    measured = pd.read_csv(ROOT / "docs" / "evaluation.csv", dtype={"tf_version": str})
    [fixed] = [sentence for sentence in scores.verdict(measured) if sentence.startswith("**fixed**")]
    assert f"> {fixed}" in UNWRAPPED
    facts = measured[measured["task"] == "opensci_facts"].set_index(["tf_version", "variant"])["score"]
    minimal = facts.xs("minimal", level="variant")
    early, later = minimal.loc[["5.0.0", "5.1.0"]], minimal.drop(["5.0.0", "5.1.0"])
    whole, low, high, first, second = (
        f"{score:.0%}".replace("%", " %") for score in (facts["4.48.0", "original"], later.min(), later.max(), *early)
    )
    assert f"from {whole} of the facts to between {low} and {high} on 5.2 to 5.23" in UNWRAPPED
    assert f"and to {first} and {second}, about a guess" in UNWRAPPED


def test_the_releases_are_what_the_picture_says_of_the_table():
    measured = pd.read_csv(ROOT / "docs" / "parity.csv", dtype={"tf_version": str})
    assert f"> {findings.equal_releases(measured)}" in UNWRAPPED
    assert ascending(measured["tf_version"]) == kernels.available()
    assert f"all {len(kernels.available())} locked releases" in README


def test_every_release_of_the_index_was_run_and_stands_in_its_table():
    page = (ROOT / "docs" / "patches.md").read_text()
    rows = json.loads((ROOT / "benchmarks" / "results" / "patches.json").read_text())["rows"]
    series: dict[str, list] = {}
    for row in rows:
        series.setdefault(row["release"].rpartition(".")[0], []).append(row)
    for name, same in series.items():
        outcomes = "; ".join(f"{row['release']}: {row['outcome']}" for row in same if row["outcome"] != "equal")
        releases = ", ".join(row["release"] for row in same)
        assert f"\n| {name} | {releases} | {outcomes or 'equal, bit for bit'} |\n" in page
    assert page.count("\n| ") == len(series) + 1
    assert {row["release"] for row in rows if row["locked"]} == set(kernels.available())
    equal = [row for row in rows if row["outcome"] == "equal"]
    assert f"{len(equal)} of {len(rows)} releases" in UNWRAPPED
    assert f"all {len(rows)} that the package index has" in page


def test_it_is_short_enough_to_be_read():
    lines = README.splitlines()
    assert len(lines) < 120
    assert max(len(line) for line in lines if not line.startswith(("|", "!["))) <= 110
