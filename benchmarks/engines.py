"""Is vLLM quicker than transformers on a fixed folder, and is the folder in vLLM as quick as a native model?

    uv run python benchmarks/engines.py

The built-in model, and layers in the shape of 1.7 B with random weights and no biases, which vLLM's own Qwen3 can't
have. Both are scored on the default tasks and generate 128 tokens from each of 64 prompts of 32: by vLLM, and by
transformers in batches of 8, both of vLLM's environment. Starting an engine, with what it imports, is told apart.
In vLLM the fixed folder and a native Qwen3 with the same weights take turns, each time with a new engine. Two
processes share the fixed folder at last, and say what each holds of its weights.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from checkout import scratch
from random_model import random_model
from record import at_least, at_most, save, spread
from serving import run
from serving_run import PROCESSES
from tqdm import tqdm

from opensci_lib import kernels
from opensci_lib.download import MINIATURE, download
from opensci_lib.hotfix import hotfix

WORKER = Path(__file__).with_name("engines_run.py")
BUILT_IN, LARGE = "built-in", "1.7 B-shaped"


def make(folder: Path, layers: int, python: Path) -> dict[str, Path]:
    """Write the model folders: each fixed, and the native twin of the large one."""
    shape = {"num_hidden_layers": layers, "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32"}
    random_model("1.7b", folder / "large", **shape)
    hotfix(Path(download(MINIATURE).path), folder / "built-in_fixed")
    hotfix(folder / "large", folder / "large_fixed")
    made, log = run(python, "native", folder / "large_fixed", folder / "native")
    if made is None:
        raise RuntimeError(log)
    return {BUILT_IN: folder / "built-in_fixed", LARGE: folder / "large_fixed", "native": folder / "native"}


def row(model: str, task: str, way: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the runs of a way."""
    found = {"model": model, "task": task, "way": way, **spread(run["seconds"] for run in runs)}
    found["tokens/s"] = round(statistics.median(rate(run) for run in runs), 1) if "tokens" in runs[0] else None
    held = runs[0].get("weights")
    found["weights a process (MB)"] = held and round(max(held) / 1e6)
    return {**found, "start (seconds)": round(statistics.median(run["start"] for run in runs), 1)}


def rate(run: dict[str, Any]) -> float:
    """Return how many tokens came in a second."""
    return run["tokens"] / run["seconds"]


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often fixed and native take turns.")
@click.option("--layers", default=2, show_default=True, help="Of the 1.7 B-shaped model.")
@click.option("--prompts", default=64, show_default=True)
@click.option("--tokens", default=128, show_default=True)
@click.option("--limit", default=0, show_default=True, help="Items of each task that are scored; 0: all.")
def main(rounds: int, layers: int, prompts: int, tokens: int, limit: int) -> None:
    """Measure the ways in turn, print and save."""
    python = kernels.python(kernels.available("vllm")[-1], "vllm")
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # or processes of vLLM take no function of ours
    sizes = {"prompts": prompts, "tokens": tokens, "limit": limit}

    def measure(*folders: Path, rounds: int = 1, processes: int = 1, **asked: Any) -> list[dict[str, Any]]:
        order = json.dumps({**sizes, "rounds": rounds, "processes": processes, **asked})
        told, log = run(python, order, *folders, processes=processes, seconds=1800, worker=WORKER)
        if told is None:
            raise RuntimeError(log)
        return told

    rows = []
    with scratch() as work:
        folders = make(work, layers, python)
        for name in tqdm((BUILT_IN, LARGE), "models"):
            for backend in ("hf", "vllm"):
                found = measure(folders[name], way="evaluate", backend=backend)
                rows.append(row(name, "default tasks", backend, found))
            rows.append(row(name, "generate", "hf", measure(folders[name], way="hf")))
        rows.append(row(BUILT_IN, "generate", "vllm", measure(folders[BUILT_IN], way="vllm")))
        pair = [folders[LARGE], folders["native"]]
        turns = defaultdict(list)
        for found in measure(*pair, rounds=rounds, way="vllm"):
            turns[Path(found["folder"])].append(found)
        fixed, native = (turns[folder] for folder in pair)
        rows.append(row(LARGE, "generate", "vllm", fixed))
        rows.append(row("native Qwen3 of its weights", "generate", "vllm", native))
        shared = measure(folders[LARGE], processes=PROCESSES, way="vllm")
        rows.append(row(LARGE, "generate", f"vllm, {PROCESSES} processes", shared))
    ratios = [rate(ours) / rate(theirs) for ours, theirs in zip(fixed, native, strict=True)]
    share = max(shared[0]["weights"]) / fixed[0]["weights"][0]
    save(
        "engines",
        rows,
        [
            at_least(0.98, "tokens/s in vLLM, fixed / native", statistics.median(ratios)),
            at_most(0.55, f"weights that each of {PROCESSES} processes holds / those of one", share),
        ],
        repetitions=rounds,
        ratios=spread(ratios, "fixed / native"),
        layers=layers,
        **sizes,
    )


if __name__ == "__main__":
    main()
