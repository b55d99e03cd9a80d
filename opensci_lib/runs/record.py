"""What `run.json` holds: what a run completed, how long and with how much memory, and under which settings."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opensci_lib.model_folder import write_json


@dataclass
class Generation:
    """The outcome of `generate`: what `run.json` holds.

    `completions[i]` continues `prompts[i]` (greedy, the prompt itself left out); `tokens[i]` are the
    prompt's tokens as text and `top_tokens[i]` the likeliest next ones with the captured logits; `settings`,
    `versions`, `seconds` and `peak_memory_bytes` (at the end of each phase, see `Laps`) say how
    it came about; `weights` compares the loaded parameters with the checkpoint's, bit for bit.
    """

    prompts: list[str]
    completions: list[str]
    tokens: list[list[str]]
    top_tokens: list[list[dict[str, Any]]]
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_bytes: dict[str, int]
    weights: dict[str, Any]

    def save(self, path: Path | str, **more: Any) -> None:
        """Write everything, and `more`, as JSON."""
        write_json(Path(path), {**more, **asdict(self)})


class Laps:
    """Takes the time, in seconds, and the peak memory, in bytes, of phases that follow one another.

    `peak_memory_of` says whose memory that is: of the "run", which begins here, or, where the system can't forget
    what was before, of the whole "process".
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._begun = clock()
        self.seconds: dict[str, float] = {}
        self.peak_memory_of = "run" if forget_peak_memory() else "process"
        self.peak_memory_bytes = {"start": peak_memory()}

    def end(self, phase: str) -> None:
        """End a phase; the next one begins."""
        begun, self._begun = self._begun, self._clock()
        self.seconds[phase] = round(self._begun - begun, 3)
        self.peak_memory_bytes[phase] = peak_memory()


_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux, see proc(5)


def forget_peak_memory() -> bool:
    """Let `peak_memory` count from here on, and say whether this system can do that."""
    try:
        _FORGET.write_text("5")
    except OSError:
        return False
    return _resident_peak() is not None


def _resident_peak() -> int | None:
    """Return the peak since it was last forgotten, in bytes, or None where the system does not tell."""
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def peak_memory() -> int:
    """Return the most memory, in bytes, that this process held at once, since `forget_peak_memory` if that worked."""
    if (held := _resident_peak()) is not None:
        return held
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def top_tokens(logits: np.ndarray, tokenizer: Any, count: int = 5) -> list[dict[str, Any]]:
    """Return the `count` likeliest tokens, best first: `token`, its text, and `logit`, its exact value.

    `logits` is (vocabulary) in the dtype as computed; of equal ones the smaller id comes first.
    """
    exact = logits.astype(np.float64)
    best = np.argsort(-exact, kind="stable")[:count]
    return [{"token": tokenizer.decode([int(i)]), "logit": float(exact[i])} for i in best]
