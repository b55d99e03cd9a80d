"""What becomes of the cluster's tests where SLURM is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_COLLECT = """
import sys
import pytest
from tests import cluster

cluster.PROGRAMS = (*cluster.PROGRAMS, "no-such-program")
sys.exit(pytest.main(["--collect-only", "-q", "tests/test_slurm.py", "tests/test_index.py"]))
"""


@pytest.mark.parametrize("ci", [False, True])
def test_without_slurm_its_tests_stay_away_loudly_but_not_in_ci(ci):
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
    assert ("tests/test_slurm.py::" in done.stdout) == ci
    assert ("THE TESTS ON A SLURM CLUSTER DID NOT RUN: no-such-program not found" in done.stdout) != ci
