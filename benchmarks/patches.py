"""Does the fixed folder load, and compute what the original did on 4.48.0, on every release that the index has?

    uv run python benchmarks/patches.py

The locked releases are the newest of their series. This runs those between them too: the built-in model, fixed, one
process a release. All share one environment, in which uv exchanges transformers and what it asks for: torch's
bytecode is compiled once, which is most of what a fresh environment's first start takes. Runs are kept in
`outputs/benchmarks/patches`, so that a call that is broken off goes on where it stopped. The table in
`docs/patches.md` is `table` of the rows that are saved.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from itertools import groupby
from pathlib import Path

import click
from checkout import SCRATCH
from record import at_most, save
from tqdm import tqdm

from opensci_lib import kernels, project
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.kernels.uv import uv
from opensci_lib.miniature import MODEL
from opensci_lib.model_folder import appearing
from opensci_lib.reports.compare import Run, difference
from opensci_lib.runs import REFERENCE_RELEASE, as_numbers, ascending

_PROBE = """
import sys
from opensci_lib.generate import generate
from opensci_lib.miniature import PROMPTS

folder, output = sys.argv[1:]
generate(folder, PROMPTS, capture_path=f"{output}/capture.safetensors").save(f"{output}/run.json")
"""


@click.command()
@click.option("--releases", help="With commas; default: all of the index between the oldest and newest locked one.")
def main(releases: str | None) -> None:
    """Run each release, compare it with the reference, print and save."""
    chosen = releases.split(",") if releases else of_index()
    # Other rules make another folder, whose runs are its own.
    scratch = SCRATCH / "patches" / project.code_digest(project.PACKAGE / "hotfix")[:8]
    scratch.mkdir(parents=True, exist_ok=True)
    fixed = hotfix(MODEL, scratch / "fixed").dst_dir
    rows = []
    with tempfile.TemporaryDirectory(prefix="opensci-patches-") as folder:
        python = environment(Path(folder) / "environment")
        reference = run(python, REFERENCE_RELEASE, MODEL, scratch / "reference")
        for release in tqdm(chosen):
            try:
                outcome = compared(reference, run(python, release, Path(fixed), scratch / release))
            except OpensciError as error:
                outcome = error.message
            rows.append({"release": release, "locked": release in kernels.available(), "outcome": outcome})
    unequal = [row for row in rows if row["outcome"] != EQUAL]
    save("patches", rows, [at_most(0, "releases that are not equal to the reference", len(unequal))], 1)
    print(table(rows))


#: What a release must be.
EQUAL = "equal"


def of_index() -> list[str]:
    """Return the releases that the index has, from the oldest to the newest locked one."""
    command = [os.environ.get("UV", "uv"), "tool", "run", "pip", "index", "versions", "transformers"]
    said = subprocess.run(command, cwd=SCRATCH.parent, capture_output=True, text=True, check=True).stdout
    first, last = (as_numbers(kernels.available()[end]) for end in (0, -1))
    found = re.findall(r"\b\d+\.\d+\.\d+\b", said.partition("Available versions:")[2])
    return [release for release in ascending(found) if first <= as_numbers(release) <= last]


def environment(folder: Path) -> str:
    """Make an environment with this library, still without transformers, and return its interpreter."""
    python = str(folder / "bin" / "python")
    uv("Making an environment", "venv", "--python", kernels.PYTHON, str(folder))
    uv("Making an environment", "pip", "install", "--python", python, "--no-deps", "--editable", str(project.ROOT))
    return python


def run(python: str, release: str, model: Path, output: Path) -> Run:
    """Run a model under a release, unless that was done."""
    if not output.exists():
        packages = ["-r", str(project.PYPROJECT), "--extra", "kernel", f"transformers=={release}"]
        uv(f"Installing transformers {release}", "pip", "install", "--python", python, *packages)
        with appearing(output) as partial, tempfile.TemporaryDirectory(prefix="opensci-") as modules:
            done = subprocess.run(
                [python, "-c", _PROBE, model, partial],
                env={**os.environ, **kernels.ENVIRONMENT, "HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise OpensciError(done.stderr.strip().splitlines()[-1])
    return Run(output)


def compared(reference: Run, run: Run) -> str:
    """Say whether a run loaded the checkpoint's tensors and computed the reference's numbers, or what else it did."""
    if run.record["weights"]["differing"]:
        return f"{len(run.record['weights']['differing'])} tensors unlike the checkpoint"
    parting = [difference(reference, run, prompt) for prompt in range(len(reference.capture.prompts))]
    if run.record["completions"] != reference.record["completions"]:
        parting.append("other completions")
    return next(filter(None, parting), EQUAL)


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown: a line a series."""
    lines = ["| series | releases | fixed folder against the original on 4.48.0 |", "|---|---|---|"]
    for series, group in groupby(rows, lambda row: ".".join(row["release"].split(".")[:2])):
        same = list(group)
        outcomes = [f"{row['release']}: {row['outcome']}" for row in same if row["outcome"] != EQUAL]
        names = ", ".join(row["release"] for row in same)
        lines.append(f"| {series} | {names} | {'; '.join(outcomes) or 'equal, bit for bit'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
