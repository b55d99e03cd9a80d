"""The library's own linter (https://github.com/huggingface/transformers-mlinter) on the folder before and after."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from opensci_lib.hotfix import all_rules

#: Its rules on loading and numbers.
NUMBERS = {"TRF012", "TRF013", "TRF015", "TRF018", "TRF048", "TRF049", "TRF062"}


def findings(folder: Path, report: Path) -> Counter:
    mlinter = Path(sys.executable).with_name("mlinter")
    subprocess.run([mlinter, "--no-cache", "--output-json", report, folder], capture_output=True, check=False)
    return Counter(finding["rule"] for finding in json.loads(report.read_text())["findings"])


def test_nothing_on_numbers_and_nothing_new(miniature, variant_folder, tmp_path):
    before, after = (findings(folder, tmp_path / "found.json") for folder in (miniature, variant_folder("fixed")))
    assert before["TRF012"] and before["TRF018"] and before["TRF048"]
    assert not NUMBERS & set(after)
    assert not after - before
    # Each id that a rule names is one that the rules answer.
    assert {id for rule in all_rules() for id in rule.trf} == set(before - after)
