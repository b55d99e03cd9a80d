"""Compare what two runs computed: how far apart, since where, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opensci_lib.capture import COMPARED, Capture, compare_pieces
from opensci_lib.errors import OpensciError
from opensci_lib.logits import bits

#: How a stage of the forward pass is called in words, by the end of its module's name.
_STAGES = {
    "embed_tokens": "the token embedding",
    "input_layernorm": "the normed input",
    "q_proj": "queries",
    "k_proj": "keys",
    "v_proj": "values",
    "q_rope": "queries after RoPE",
    "k_rope": "keys after RoPE",
    "self_attn": "the attention output",
    "mlp": "the MLP output",
    "lm_head": "the logits",
}


@dataclass(frozen=True)
class Run:
    """One run of `infer.ipynb`: a folder with `capture.safetensors` and `run.json`."""

    path: Path

    @cached_property
    def capture(self) -> Capture:
        """The capture, memory-mapped."""
        return Capture(self.path / "capture.safetensors")

    @cached_property
    def record(self) -> dict[str, Any]:
        """What `run.json` holds: settings, versions, completions, timings."""
        return json.loads((self.path / "run.json").read_text())

    @property
    def tf_version(self) -> str:
        """The transformers release."""
        return self.record["versions"]["transformers"]

    @property
    def variant(self) -> str:
        """original, minimal or fixed."""
        return self.record["variant"]


def find_runs(folder: Path | str) -> list[Run]:
    """Return the runs below `outputs/<model>`, releases ascending, then original, minimal, fixed."""
    runs = [Run(path.parent) for path in Path(folder).glob("*/*/run.json")]
    order = ["original", "minimal", "fixed"]
    return sorted(runs, key=lambda run: ([int(part) for part in run.tf_version.split(".")], order.index(run.variant)))


def compare_positions(reference: Capture, candidate: Capture, prompt: int) -> pd.DataFrame:
    """Compare two captures of one prompt position by position.

    Returns a frame with a row per position and the columns `position`, those of `logits.compare_rows`, and
    `cos_abs_diff` and `sin_abs_diff` (largest over the frequencies).

    Raises:
        OpensciError: when the two did not read the same tokens, or when the candidate kept no logits and was
            compared with another reference as it was computed.

    """
    if not np.array_equal(reference[f"{prompt}.token_ids"], candidate[f"{prompt}.token_ids"]):
        raise OpensciError(
            f"{reference.path} and {candidate.path} hold different token ids for prompt {prompt}: "
            "compare runs of the same prompts under the same tokenizer."
        )
    return pd.DataFrame(
        {
            "position": np.arange(len(reference[f"{prompt}.token_ids"])),
            **_compared(reference, candidate, prompt),
            "cos_abs_diff": _largest(reference, candidate, f"{prompt}.cos"),
            "sin_abs_diff": _largest(reference, candidate, f"{prompt}.sin"),
        }
    )


def _compared(reference: Capture, candidate: Capture, prompt: int) -> dict[str, np.ndarray]:
    """Return what `compare_rows` says of the logits, now or when the candidate was captured."""
    if candidate.keeps_logits:
        return compare_pieces(reference, candidate, prompt)
    if candidate.reference != reference.digest:
        raise OpensciError(
            f"{candidate.path} keeps no logits, and was not compared with {reference.path} as it was computed: "
            "run it again with that reference, or with its logits kept."
        )
    return {name: np.array(candidate[f"{prompt}.{name}"]) for name in COMPARED}


def parity(reference: Run, runs: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare every run with `reference`.

    Returns:
        (parity, positions): one row per release, variant and prompt, the columns of `parity.csv`;
        and all rows of `compare_positions`, with `tf_version`, `variant` and `prompt` before them.

    """
    rows, details = [], []
    for run in runs:
        for number, _ in enumerate(reference.capture.prompts):
            key = {"tf_version": run.tf_version, "variant": run.variant, "prompt": number}
            frame = compare_positions(reference.capture, run.capture, number)
            for column, value in reversed(key.items()):
                frame.insert(0, column, value)
            details.append(frame)
            rows.append(
                {
                    **key,
                    "positions": len(frame),
                    "max_abs_diff": frame["max_abs_diff"].max(skipna=False),
                    "mean_abs_diff": frame["mean_abs_diff"].mean(skipna=False),
                    "max_kl": frame["kl"].max(skipna=False),
                    "bitwise_equal": bool(frame["bitwise_equal"].all()),
                    "top1_agreement": frame["top1_agreement"].mean(),
                    "rope_max_abs_diff": frame[["cos_abs_diff", "sin_abs_diff"]].max(axis=None, skipna=False),
                    "inv_freq_equal": _samebits(reference, run, f"{number}.inv_freq"),
                    **_top_tokens(run, number),
                    "completion": run.record["completions"][number],
                    "verdict": verdict(reference, run, number),
                }
            )
    return pd.DataFrame(rows), pd.concat(details, ignore_index=True)


def first_divergence(reference: Capture, candidate: Capture, prompt: int) -> tuple[str, int] | None:
    """Return (stage, position) where two runs first part, in causal order, or None where they never do.

    A stage is a module's name, or an attention module's name followed by `.q_rope` or `.k_rope`;
    the first stage with any difference counts, and in it the first position.
    """
    ours = dict(zip(reference.stages, reference[f"{prompt}.fingerprints"], strict=True))
    theirs = dict(zip(candidate.stages, candidate[f"{prompt}.fingerprints"], strict=True))
    for stage in reference.stages:
        if stage in theirs and (differs := ours[stage] != theirs[stage]).any():
            return stage, int(differs.argmax())
    return None


def describe_stage(stage: str) -> str:
    """Say a stage in words: "model.layers.0.self_attn.k_rope" is "layer 0, keys after RoPE"."""
    parts = stage.split(".")
    what = _STAGES.get(parts[-1], parts[-1])
    layers = [part for part in parts if part.isdigit()]
    return f"layer {layers[0]}, {what}" if layers else what


def verdict(reference: Run, run: Run, prompt: int) -> str:
    """Say in a sentence whether `run` equals `reference` on a prompt and, if not, what explains it."""
    where = first_divergence(reference.capture, run.capture, prompt)
    if where is None:
        return "equal to the reference, bit for bit"
    stage, position = where
    parts = f"parts from the reference at {describe_stage(stage)}, position {position}"
    causes = []
    if overwritten := run.record["weights"]["differing"]:
        causes.append(
            f"{len(overwritten)} of {run.record['weights']['tensors']} tensors differ from the checkpoint: "
            "the model's own _init_weights overwrote them after loading"
        )
    if not _samebits(reference, run, f"{prompt}.inv_freq"):
        held, right = (r.capture[f"{prompt}.inv_freq"][:3] for r in (run, reference))
        causes.append(
            f"inv_freq holds {_numbers(held)} where {_numbers(right)} belongs: "
            "the buffer was left as uninitialised memory after loading"
        )
    if run.record["settings"]["dtype"] != reference.record["settings"]["dtype"]:
        causes.append(f"it ran in {run.record['settings']['dtype']}")
    return f"{parts}: {'; '.join(causes) or 'weights and inv_freq are right, so the computation differs'}"


def _top_tokens(run: Run, prompt: int) -> dict[str, Any]:
    first, second = run.record["top_tokens"][prompt][:2]
    return {
        "top1_token": first["token"],
        "top1_logit": first["logit"],
        "top2_token": second["token"],
        "top2_logit": second["logit"],
        "gap": first["logit"] - second["logit"],
    }


def _largest(reference: Capture, candidate: Capture, name: str) -> np.ndarray:
    a, b = (c[name].astype(np.float64) for c in (reference, candidate))
    return np.abs(a - b).max(axis=1)


def _samebits(reference: Run, run: Run, name: str) -> bool:
    return np.array_equal(bits(reference.capture[name]), bits(run.capture[name]))


def _numbers(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values) + ", …]"
