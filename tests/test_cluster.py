"""What becomes of tests whose programs are not installed: SLURM, Chromium."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_COLLECT = """
import shutil
import sys
import pytest
from tests import cluster

cluster.PROGRAMS = (*cluster.PROGRAMS, "no-such-program")
which = shutil.which
shutil.which = lambda name, **options: None if name == "chromium" else which(name, **options)
files = ["tests/test_slurm.py", "tests/test_browser.py", "tests/test_index.py"]
sys.exit(pytest.main(["--collect-only", "-q", *files]))
"""


@pytest.mark.parametrize("ci", [False, True])
def test_without_their_programs_tests_stay_away_loudly_but_not_in_ci(ci):
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT],
        cwd=Path(__file__).parents[1],
        env=environment | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "tests/test_index.py::" in done.stdout
    for file, sentence in (
        ("slurm", "THE TESTS ON A SLURM CLUSTER DID NOT RUN: no-such-program not found"),
        ("browser", "THE TESTS IN A BROWSER DID NOT RUN: chromium not found"),
    ):
        assert (f"tests/test_{file}.py::" in done.stdout) == ci
        assert (sentence in done.stdout) != ci
