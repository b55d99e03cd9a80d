"""Does the fixed folder compute the same bits on a GPU, by the same kernels, and as fast?

    uv run python benchmarks/gpu.py

The folder as published on 4.48.0 and the fixed one on six releases, each a process of its own, with layers of the
1.7 B model and random weights, in float32 and bfloat16: a prompt of 4,096 tokens, a batch of eight left-padded rows,
and decoding after the prompt. Bits and kernels are compared with those of the folder as published. Without a network,
give uv the wheels: UV_FIND_LINKS=FOLDER UV_OFFLINE=1. It was written without a GPU and has not been run: try it first
on a CPU, with `--device cpu --layers 1 --positions 64`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click
from checkout import scratch
from random_model import random_model
from record import save
from tqdm import tqdm

from opensci_lib import kernels
from opensci_lib.hotfix import hotfix

SCRIPT = Path(__file__).with_name("gpu_run.py")
RELEASES = ("4.48.0", "4.53.3", "4.57.6", "5.0.0", "5.2.0", "5.23.0")
DTYPES = ("float32", "bfloat16")


def measure(release: str, *arguments: object) -> dict[str, Any]:
    """Run the worker under a release and return what it found, by use."""
    done = kernels.run(release, SCRIPT, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rows(runs: dict[tuple[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table: by dtype, use, release and folder, whether bits and kernels are those as published."""
    table = []
    for (dtype, release, way), found in runs.items():
        right = runs[dtype, RELEASES[0], "original"]
        table += [
            {
                "dtype": dtype,
                "use": use,
                "folder": f"{way}, {release}",
                "same bits": seen["bits"] == right[use]["bits"],
                "same kernels": seen["kernels"] == right[use]["kernels"],
                "tokens/s": seen["tokens/s"],
            }
            for use, seen in found.items()
        ]
    return table


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--layers", default=8, show_default=True, help="Of the 24.")
@click.option("--positions", default=4096, show_default=True, help="Tokens of the prompt, and of the longest row.")
def main(device: str, layers: int, positions: int) -> None:
    """Measure, print and save."""
    runs = {}
    with scratch() as folder:
        random_model("1.7b", folder / "original", num_hidden_layers=layers)
        hotfix(folder / "original", folder / "fixed")
        ways = [(RELEASES[0], "original"), *((release, "fixed") for release in RELEASES)]
        for dtype in DTYPES:
            for release, way in tqdm(ways, dtype):
                runs[dtype, release, way] = measure(release, folder / way, device, dtype, positions)
    used = {f"{dtype}, {release}, {way}": {use: seen["kernels"] for use, seen in found.items()}
            for (dtype, release, way), found in runs.items()}  # fmt: skip
    settings = {"device": device, "layers": layers, "positions": positions}
    save(f"gpu-{device.partition(':')[0]}", rows(runs), [], repetitions=1, kernels=used, **settings)


if __name__ == "__main__":
    main()
