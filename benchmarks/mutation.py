"""How many faults in the modules that compute or judge would the tests notice?

    uv run --group mutation python benchmarks/mutation.py

mutmut (https://mutmut.readthedocs.io) changes one thing at a time in the modules that pyproject.toml names
(`[tool.mutmut]`), and runs the tests that reach it; none of them needs a kernel. What survives is listed with its
change in `mutants/survivors.txt`, to be killed by a test or to be named as equivalent in docs/mutation.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
from record import HERE, at_least, save

ROOT = HERE.parent
MUTANTS = ROOT / "mutants"
_KILLED, _SURVIVED = "killed", "survived"


def main() -> None:
    """Mutate, test, print and save."""
    shutil.rmtree(MUTANTS, ignore_errors=True)
    mutmut("run", stdout=None, check=True)
    outcomes = {module_of(file): outcome(file) for file in sorted(MUTANTS.rglob("*.py.meta"))}
    rows = []
    for module, found in outcomes.items():
        counts = Counter(_KILLED if killed else _SURVIVED for killed in found.values())
        rows.append(
            {
                "module": module,
                "mutants": len(found),
                "killed": counts[_KILLED],
                "survived": counts[_SURVIVED],
                "share killed": round(counts[_KILLED] / len(found), 4),
            }
        )
    survivors = [name for found in outcomes.values() for name, killed in found.items() if not killed]
    with (MUTANTS / "survivors.txt").open("w") as file:
        for name in survivors:
            file.write(f"{name}\n{mutmut('show', name, check=True).stdout}\n")
    mutants, killed = (sum(row[column] for row in rows) for column in ("mutants", "killed"))
    total = {"module": "all", "mutants": mutants, "killed": killed, "survived": mutants - killed}
    save(
        "mutation",
        [*rows, {**total, "share killed": round(killed / mutants, 4)}],
        [at_least(0.9, "share of mutants that die", killed / mutants)],
        repetitions=1,
        packages=["mutmut", "pytest"],
    )
    click.echo(f"{len(survivors)} survivors: {MUTANTS.relative_to(ROOT) / 'survivors.txt'}")


def mutmut(*words: str, **options) -> subprocess.CompletedProcess:
    """Run mutmut in the checkout; without other options its output is returned."""
    command = [Path(sys.executable).with_name("mutmut"), *words]
    return subprocess.run(command, cwd=ROOT, text=True, **{"stdout": subprocess.PIPE, "check": False, **options})


def module_of(file: Path) -> str:
    """Return a mutated module's path, from the file in which mutmut keeps its mutants' results."""
    return file.relative_to(MUTANTS).as_posix().removesuffix(".meta")


def outcome(file: Path) -> dict[str, bool]:
    """Return {mutant: whether a test failed, or did not come to an end}; a mutant that no test reaches survives."""
    from mutmut.stats import status_by_exit_code

    codes = json.loads(file.read_text())["exit_code_by_key"]
    return {name: status_by_exit_code[code] in ("killed", "timeout") for name, code in codes.items()}


if __name__ == "__main__":
    main()
