"""What the benchmarks share: time an action, say how numbers spread and on what machine, print and write a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

HERE = Path(__file__).parent


def seconds(action: Callable[..., object], *arguments: Any) -> float:
    """Return how long an action takes."""
    begun = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - begun


def spread(values: Iterable[float], unit: str = "seconds") -> dict[str, float]:
    """Return the median, named after its unit, and the extremes, as columns of a row."""
    values = list(values)
    summary = {f"median {unit}": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: rounded(value) for name, value in summary.items()}


def rounded(value: float) -> float:
    """Return a value with three digits after the point, or four in all where it is less than one."""
    return round(value, 3) if abs(value) >= 1 else float(f"{value:.4g}")


def own_bytes(folder: Path) -> int:
    """Return the bytes of disk that only this folder takes: a hard link into uv's cache or a model takes none.

    Where a file system clones files, clones count in full, so there the figure is too high.
    """
    return sum(
        status.st_blocks * 512
        for file in folder.rglob("*")
        if (status := file.lstat()).st_nlink == 1 or not file.is_file()
    )


def at_most(bound: float, what: str, measured: float) -> dict[str, Any]:
    """Return a goal beside what was measured, which should be small."""
    return _goal(f"{what}: at most {bound:g}", bound, measured, measured <= bound)


def at_least(bound: float, what: str, measured: float) -> dict[str, Any]:
    """Return a goal beside what was measured, which should be large."""
    return _goal(f"{what}: at least {bound:g}", bound, measured, measured >= bound)


def _goal(words: str, bound: float, measured: float, met: bool) -> dict[str, Any]:
    missed_by = None if met else f"{abs(measured / bound - 1):.0%}" if bound else f"{measured:g}"
    return {"goal": words, "measured": rounded(measured), "met": bool(met), "missed by": missed_by}


def save(
    name: str,
    rows: list[dict[str, Any]],
    goals: list[dict[str, Any]],
    repetitions: int,
    packages: Iterable[str] = (),
    **more: Any,
) -> None:
    """Write `results/<name>.json` and print it.

    Args:
        name: of the benchmark.
        rows: the table.
        goals: of `at_most` and `at_least`.
        repetitions: how often each way was measured.
        packages: of the driver environment, whose versions matter.
        more: other facts, written as they are.

    """
    record = {
        "rows": rows,
        "goals": goals,
        **more,
        "repetitions": repetitions,
        "machine": _machine(),
        "versions": {
            "python": platform.python_version(),
            "uv": _said(os.environ.get("UV", "uv"), "--version").split()[1],
            **{package: version(package) for package in packages},
            "commit": _said("git", "describe", "--always", "--dirty"),
        },
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.6g}".format))
    for entry in goals:
        outcome = "met" if entry["met"] else f"missed by {entry['missed by']}"
        print(f"{entry['goal']}; measured {entry['measured']:g}: {outcome}")


def _machine() -> dict[str, Any]:
    """Return what the figures depend on and nothing that names this machine."""
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory (GiB)": memory,
        "system": platform.system(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {models[0]}" if models else platform.machine()


def _said(*command: str) -> str:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
