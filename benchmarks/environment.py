"""What does one more kernel environment cost, once the caches are warm?

    uv run python benchmarks/environment.py

`uv run opensci kernels build V` in a fresh copy of this checkout against `python -m venv DIR` and
`DIR/bin/python -m pip install -r environments/transformers-V.txt`, in turn, for each release. Both have every package
in their cache: the first turn, which fills pip's, is not counted. Disk is what only the new folder takes; files that
uv hard-links from its cache, where the first environment put them, take none. pip compiles packages to bytecode when
it installs them and Python does so when it first imports them, so time and disk are also given after the first import
of a model, and torch with it.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import click
from checkout import UV, Checkout, call, fresh_checkout
from record import at_least, at_most, own_bytes, rounded, save, seconds, spread
from tqdm import tqdm

from opensci_lib.kernels import PYTHON

FIRST = "5.23.0"  # the environment that is there before one more is built
RELEASES = ["5.22.2", "5.21.1"]
FIRST_IMPORT = "import transformers.models.llama.modeling_llama"
OURS, PIP = "opensci kernels build", "python -m venv, pip install"


def build(checkout: Checkout, release: str, folder: Path) -> None:
    """Build an environment as this project does, in its own place."""
    checkout.run("opensci", "kernels", "build", release)
    assert (folder / "bin" / "python").exists()


def install(checkout: Checkout, release: str, folder: Path) -> None:
    """Build the same environment with pip."""
    python = call(UV, "python", "find", "--no-project", PYTHON).strip()
    call(python, "-m", "venv", folder)
    call(folder / "bin" / "python", "-m", "pip", "install", "-r", f"environments/transformers-{release}.txt")


def measure(way: str, checkout: Checkout, release: str) -> dict[str, Any]:
    """Build an environment, import from it, delete it, and return what that took."""
    action, folder = {
        OURS: (build, checkout.folder / "environments" / f"transformers-{release}"),
        PIP: (install, checkout.folder / "pip"),
    }[way]
    built = seconds(action, checkout, release, folder)
    disk = own_bytes(folder)
    imported = seconds(call, folder / "bin" / "python", "-c", FIRST_IMPORT)
    after = own_bytes(folder)
    shutil.rmtree(folder)
    return {
        "release": release,
        "way": way,
        "built": built,
        "imported": built + imported,
        "disk": disk,
        "after": after,
    }


def row(way: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise a way over releases and turns."""
    median = {key: statistics.median(run[key] for run in runs) for key in ("imported", "disk", "after")}
    return {
        "way": way,
        **spread(run["built"] for run in runs),
        "with first import": rounded(median["imported"]),
        "disk (MB)": round(median["disk"] / 1e6, 1),
        "disk after it (MB)": round(median["after"] / 1e6, 1),
    }


@click.command()
@click.option("--turns", default=1, show_default=True, help="How often each release is built each way.")
def main(turns: int) -> None:
    """Measure both ways in turn, print and save."""
    runs = []
    with fresh_checkout() as checkout:
        checkout.run("opensci", "kernels", "build", FIRST)
        steps = [(release, way) for _ in range(1 + turns) for release in RELEASES for way in (OURS, PIP)]
        for release, way in tqdm(steps, "environments"):
            runs.append(measure(way, checkout, release))
    counted = runs[2 * len(RELEASES) :]
    ours, pip = ([run for run in counted if run["way"] == way] for way in (OURS, PIP))
    table = [row(OURS, ours), row(PIP, pip)]
    ratios = {
        key: [theirs[key] / own[key] for own, theirs in zip(ours, pip, strict=True)] for key in ("built", "imported")
    }
    save(
        "environment",
        table,
        [
            at_least(10, "pip's time / ours", statistics.median(ratios["built"])),
            at_least(10, "the same with the first import", statistics.median(ratios["imported"])),
            at_most(100, "disk of one more environment, MB", table[0]["disk (MB)"]),
            at_most(100, "the same after the first import, MB", table[0]["disk after it (MB)"]),
        ],
        repetitions=turns * len(RELEASES),
        releases=RELEASES,
        ratios={key: [rounded(value) for value in values] for key, values in ratios.items()},
    )


if __name__ == "__main__":
    main()
