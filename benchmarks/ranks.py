"""What does each of several processes hold of a model that they share?

    uv run python benchmarks/ranks.py

Random bfloat16 weights in the shape of 1.7 B, made fixed, and loaded by transformers with `tp_plan="auto"` in two
processes, on processors (gloo): the bytes of the parameters of each.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click
from checkout import scratch
from random_model import random_model
from record import at_most, save

from opensci_lib import kernels
from opensci_lib.hotfix import hotfix
from opensci_lib.model_folder import read_json

SCRIPT = Path(__file__).with_name("rank.py")
RELEASE = kernels.available()[-1]
PROCESSES = 2


def load(folder: Path) -> list[int]:
    """Load a folder in processes that share it, and return the bytes that each holds."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", PROCESSES, SCRIPT, folder)
    done = kernels.run(RELEASE, *launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # gloo prints there too
    return [row["weights"] for row in sorted(found, key=lambda row: row["rank"])]


@click.command()
def main() -> None:
    """Share the model between two processes, and write what each held."""
    with scratch() as place:
        random_model("1.7b", place / "original")
        hotfix(place / "original", place / "fixed")
        whole = read_json(place / "original" / "model.safetensors.index.json")["metadata"]["total_size"]
        parts = load(place / "fixed")
    rows = [{"rank": rank, "weights (GiB)": round(part / 2**30, 3)} for rank, part in enumerate(parts)]
    goals = [at_most(0.51, "the larger part of the weights", max(parts) / whole)]
    save("ranks", rows, goals, 1, release=RELEASE, whole=f"{whole / 2**30:.3f} GiB")


if __name__ == "__main__":
    main()
