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
    `versions`, `seconds` and `peak_memory_bytes` (of the process, at the end of each phase) say how
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
    """Takes the time, in seconds, and the peak memory, in bytes, of phases that follow one another."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._begun = clock()
        self.seconds: dict[str, float] = {}
        self.peak_memory_bytes = {"start": peak_memory()}

    def end(self, phase: str) -> None:
        """End a phase; the next one begins."""
        begun, self._begun = self._begun, self._clock()
        self.seconds[phase] = round(self._begun - begun, 3)
        self.peak_memory_bytes[phase] = peak_memory()


def peak_memory() -> int:
    """Return the most memory, in bytes, that this process ever held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def top_tokens(logits: np.ndarray, tokenizer: Any, count: int = 5) -> list[dict[str, Any]]:
    """Return the `count` likeliest tokens, best first: `token`, its text, and `logit`, its exact value.

    `logits` is (vocabulary) in the dtype as computed; of equal ones the smaller id comes first.
    """
    exact = logits.astype(np.float64)
    best = np.argsort(-exact, kind="stable")[:count]
    return [{"token": tokenizer.decode([int(i)]), "logit": float(exact[i])} for i in best]
