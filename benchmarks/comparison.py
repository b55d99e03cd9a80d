"""Does comparing two captures take time in proportion to the prompt, and the same memory for every prompt?

    uv run python benchmarks/comparison.py

`reports.compare.compare_positions` of two captures, with logits in bfloat16 over 50,304 words, of 512, 4,096 and
16,384 positions in turn: once equal, bit for bit, which needs no exponentials, and once different everywhere. Each
comparison is a process of its own and reads files that were just written. Memory is what the process took of its own
while it compared (`RssAnon`, every millisecond); beside it stands the most that it held with the pages of the files,
which are mapped and which the system takes back when it needs them.
"""

from __future__ import annotations

import resource
import statistics
import threading
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click
import ml_dtypes
import numpy as np
from checkout import scratch
from record import at_least, at_most, save, seconds, spread
from tqdm import tqdm

from opensci_lib.reports.compare import compare_positions
from opensci_lib.runs.capture import Capture, CaptureWriter

POSITIONS = [512, 4096, 16384]
VOCABULARY, HEAD_DIM = 50304, 64
BLOCK = 512  # positions of random numbers, repeated to a prompt's length


def write(path: Path, positions: int, logits: np.ndarray) -> None:
    """Write a capture of one prompt."""
    with CaptureWriter(path, [""]) as writer:
        for _ in range(positions // BLOCK):
            writer.add("0.logits", logits)
        writer.add("0.token_ids", np.arange(positions))
        for name in ("cos", "sin"):
            writer.add(f"0.{name}", np.ones((positions, HEAD_DIM), ml_dtypes.bfloat16))


def compare(reference: Path, candidate: Path) -> tuple[float, int, int]:
    """Compare two captures; return seconds, bytes of its own that this took, and the most that the process held."""
    before, most, done = own_memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    duration = seconds(compare_positions, Capture(reference), Capture(candidate), 0)
    done.set()
    watcher.join()
    return duration, most - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_memory() -> int:
    """Return the bytes that this process holds and that are pages of no file."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


@click.command()
@click.option("--repetitions", default=3, show_default=True, help="How often each pair is compared.")
def main(repetitions: int) -> None:
    """Measure the sizes in turn, print and save."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (BLOCK, VOCABULARY)).astype(ml_dtypes.bfloat16)
    others = {"equal": logits, "different": (logits.astype(np.float32) + 0.5).astype(ml_dtypes.bfloat16)}
    runs = defaultdict(list)
    with scratch() as folder:
        for positions in tqdm(POSITIONS, "writing captures"):
            for name, values in {"reference": logits, **others}.items():
                write(folder / f"{positions}-{name}", positions, values)
        steps = [(kind, positions) for _ in range(repetitions) for kind in others for positions in POSITIONS]
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for kind, positions in tqdm(steps, "comparisons"):
                pair = (folder / f"{positions}-reference", folder / f"{positions}-{kind}")
                runs[kind, positions].append(pool.submit(compare, *pair).result())
    rows = [
        {
            "logits": kind,
            "positions": positions,
            **spread((positions / duration for duration, _, _ in values), "positions/s"),
            "own memory (MB)": round(statistics.median(own for _, own, _ in values) / 1e6, 1),
            "with file pages (MB)": round(statistics.median(peak for _, _, peak in values) / 1e6, 1),
        }
        for (kind, positions), values in runs.items()
    ]
    goals = []
    for kind in others:
        least, *_, most = [row for row in rows if row["logits"] == kind]
        ratios = {name: most[name] / least[name] for name in ("median positions/s", "own memory (MB)")}
        between = f"{POSITIONS[-1]} to {POSITIONS[0]} positions, {kind}"
        goals.append(at_least(0.9, f"positions/s, {between}", ratios["median positions/s"]))
        goals.append(at_most(1.1, f"own memory, {between}", ratios["own memory (MB)"]))
    save("comparison", rows, goals, repetitions, packages=["numpy", "ml-dtypes", "pandas"])


if __name__ == "__main__":
    main()
