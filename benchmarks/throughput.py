"""Is the fixed folder as quick as a model of the release's own code?

    uv run python benchmarks/throughput.py

Three ways in turn, each a process of its own: the folder as published on 4.48.0, the fixed one on the newest release,
and there a native Qwen3 of the same size with the same weights. They have 0.12 B random parameters: 22 layers, hidden
size 512, vocabulary 50,304, queries and keys normed, attention with biases, MLP without, which Qwen3 can't have. In
float32, each reads a prompt of 512 tokens and continues it greedily by 64. Decoding is timed as what 65 new tokens
take more than one does. Memory is the most that the process held, mapped file pages included.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from checkout import scratch
from random_model import random_model
from record import at_least, at_most, save, spread
from tqdm import tqdm

from opensci_lib import kernels
from opensci_lib.hotfix import hotfix

SCRIPT = Path(__file__).with_name("decoder.py")
SHAPE = {
    "num_hidden_layers": 22,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 2256,
    "mlp_bias": False,
}
OLDEST, NEWEST = kernels.OLDEST, kernels.available()[-1]
WAYS = {"original": OLDEST, "fixed": NEWEST, "native": NEWEST}


def decoder(release: str, *arguments: object) -> str:
    """Run `decoder.py` under a release and return what it printed."""
    done = kernels.run(release, SCRIPT, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def make(folder: Path) -> None:
    """Write the three model folders, named after their way."""
    random_model("1.3b", folder / "original", **SHAPE)
    hotfix(folder / "original", folder / "fixed")
    decoder(NEWEST, "twin", folder / "fixed", folder / "native")


def row(way: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the processes of a way."""
    prefill, decode = (spread((run[key] for run in runs), "tokens/s") for key in ("prefill", "decode"))
    peak = statistics.median(run["peak_memory"] for run in runs)
    return {
        "way": f"{way}, {WAYS[way]}",
        **{f"prefill {key}": value for key, value in prefill.items()},
        **{f"decode {key}": value for key, value in decode.items()},
        "peak memory (MB)": round(peak / 1e6),
    }


@click.command()
@click.option("--rounds", default=5, show_default=True, help="How often each way is measured.")
def main(rounds: int) -> None:
    """Measure the ways in turn, print and save."""
    runs = defaultdict(list)
    with scratch() as folder:
        make(folder)
        for _ in tqdm(range(rounds), "rounds"):
            for way, release in tqdm(WAYS.items(), "ways", leave=False):
                runs[way].append(json.loads(decoder(release, "measure", folder / way).splitlines()[-1]))
    ratios = {
        (other, key): [ours[key] / theirs[key] for ours, theirs in zip(runs["fixed"], runs[other], strict=True)]
        for other in ("native", "original")
        for key in ("prefill", "decode", "peak_memory")
    }
    median = {key: statistics.median(values) for key, values in ratios.items()}
    save(
        "throughput",
        [row(way, processes) for way, processes in runs.items()],
        [
            at_least(0.98, "prefill, fixed / native", median["native", "prefill"]),
            at_least(0.98, "decode, fixed / native", median["native", "decode"]),
            at_most(1.02, "peak memory, fixed / native", median["native", "peak_memory"]),
        ],
        repetitions=rounds,
        ratios=[
            {
                "fixed to": other,
                "of": key,
                **spread(values, "ratio"),
            }
            for (other, key), values in ratios.items()
        ],
        same_tokens=len({tuple(run["tokens"]) for processes in runs.values() for run in processes}) == 1,
        shape=SHAPE,
    )


if __name__ == "__main__":
    main()
