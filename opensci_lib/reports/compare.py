"""Compare what two runs computed: how far apart, since where, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.runs import find, trace
from opensci_lib.runs.capture import Capture
from opensci_lib.runs.logits import COMPARED, ROWS, abs_diff, compare_rows, joined, same_bits

#: How a stage of the forward pass is called in words, by the end of its module's name.
_STAGES = {
    "embed_tokens": "the token embedding",
    "input_layernorm": "the normed input",
    "q_proj": "queries",
    "k_proj": "keys",
    "v_proj": "values",
    "q_rope": "queries after RoPE",
    "k_rope": "keys after RoPE",
    "q_norm": "normed queries",
    "k_norm": "normed keys",
    "o_proj": "the attention projected",
    "self_attn": "the attention output",
    "post_attention_layernorm": "the normed MLP input",
    "gate_proj": "the MLP gate",
    "act_fn": "the MLP gate activated",
    "up_proj": "the MLP up projection",
    "down_proj": "the MLP down projection",
    "mlp": "the MLP output",
    "norm": "the final norm",
    "lm_head": "the logits",
}

#: What must be the same for equal bits, besides the folder, and where `run.json` has it.
_CONDITIONS = (
    ("settings", "dtype"),
    ("settings", "device"),
    ("settings", "attn_implementation"),
    ("versions", "torch"),
)

#: How `verdict` begins for a run that is its reference in all that was compared.
EQUAL = "equal to the reference, bit for bit"
_NO_NUMBERS = {"bitwise_equal": False, "inv_freq_equal": False}  # the other columns of a run that failed are empty


@dataclass(frozen=True)
class Run:
    """One run of `infer.ipynb`: a folder with `capture.safetensors` and `run.json`."""

    path: Path

    @cached_property
    def capture(self) -> Capture:
        """The capture, opened."""
        return Capture(self.path / "capture.safetensors")

    @cached_property
    def record(self) -> dict[str, Any]:
        """What `run.json` holds: settings, versions, completions, timings."""
        return json.loads((self.path / "run.json").read_text())

    @property
    def error(self) -> str | None:
        """Why there are no numbers: the sentence of a run that failed. None where there are."""
        return self.record.get("error")

    @property
    def longest_prompt(self) -> int:
        """The number of the prompt with the most tokens: what is drawn by position is drawn of it."""
        return max(range(len(self.capture.prompts)), key=lambda prompt: len(self.record["tokens"][prompt]))

    @property
    def tf_version(self) -> str:
        """The transformers release."""
        return self.record["versions"]["transformers"]

    @property
    def variant(self) -> str:
        """original, minimal or fixed."""
        return self.record["variant"]


def find_runs(folder: Path | str, runs: list[str] | None = None) -> list[Run]:
    """Return the runs below `outputs/<model>`: those named ("<tf_version>/<variant>"), or all; see `runs.find`."""
    return [Run(path) for path in find(folder, "run.json", runs)]


def compare_positions(reference: Capture, candidate: Capture, prompt: int) -> pd.DataFrame:
    """Compare two captures of one prompt position by position.

    Returns a frame with a row per position and the columns `position`, those of `logits.compare_rows`, and
    `cos_abs_diff` and `sin_abs_diff` (`logits.abs_diff`, largest over the frequencies).

    Raises:
        OpensciError: when the two did not read the same prompts as the same tokens, when their models are of
            different shape, or when not both keep their logits and the candidate was not compared with the reference
            as it was computed.

    """
    if reference.prompts != candidate.prompts:
        raise OpensciError(
            f"{candidate.path} holds other prompts than {reference.path} ({len(candidate.prompts)} and "
            f"{len(reference.prompts)}): run both on the same prompts, in the same order."
        )
    ids, others = (capture[f"{prompt}.token_ids"] for capture in (reference, candidate))
    if not np.array_equal(ids, others):
        raise OpensciError(
            f"{reference.path} and {candidate.path} hold different token ids for prompt {prompt}: "
            "compare runs of the same prompts under the same tokenizer."
        )
    return pd.DataFrame(
        {
            "position": np.arange(len(ids)),
            **_compared(reference, candidate, prompt),
            "cos_abs_diff": abs_diff(*_both(reference, candidate, f"{prompt}.cos")).max(axis=1),
            "sin_abs_diff": abs_diff(*_both(reference, candidate, f"{prompt}.sin")).max(axis=1),
        }
    )


def _compared(reference: Capture, candidate: Capture, prompt: int) -> dict[str, np.ndarray]:
    """Return what `compare_rows` says of the logits, now or when the candidate was captured."""
    if candidate.keeps_logits and reference.keeps_logits:
        name, count = f"{prompt}.logits", len(reference[f"{prompt}.token_ids"])
        pieces = (_both(reference, candidate, name, start, start + ROWS) for start in range(0, count, ROWS))
        return joined([compare_rows(*piece) for piece in pieces])
    if candidate.reference != reference.digest:
        raise OpensciError(
            f"{candidate.path} was not compared with {reference.path} as it was computed, and not both keep their "
            "logits: run it again with that reference, or both with their logits kept."
        )
    return {name: np.array(candidate[f"{prompt}.{name}"]) for name in COMPARED}


def _both(reference: Capture, candidate: Capture, name: str, *rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a tensor of both captures, or some of its rows, which must be of one shape."""
    a, b = (capture.rows(name, *rows) if rows else capture[name] for capture in (reference, candidate))
    if a.shape != b.shape:
        raise OpensciError(
            f"{name} is of shape {a.shape} in {reference.path} and {b.shape} in {candidate.path}: "
            "compare runs of the same model."
        )
    return a, b


def parity(reference: Run, runs: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare every run with `reference`.

    Returns:
        (parity, positions): one row per release, variant and prompt, the columns of `parity.csv`, where a maximum or
        mean over positions with NaN is NaN; and all rows of `compare_positions`, with `tf_version`, `variant` and
        `prompt` before them. A run that failed has no positions; its rows say why, and no numbers.

    Raises:
        OpensciError: when a run can't be compared with the reference (`compare_positions`), when the reference
            failed, or when there is none.

    """
    if reference.error:
        raise OpensciError(f"{reference.path}, the reference, failed: {reference.error}")
    rows, details = [], []
    for run in runs:
        for number in range(len(reference.capture.prompts)):
            key = {"tf_version": run.tf_version, "variant": run.variant, "prompt": number}
            if run.error:
                rows.append({**key, "positions": 0, **_NO_NUMBERS, "verdict": f"failed: {run.error}"})
                continue
            frame = compare_positions(reference.capture, run.capture, number)
            details.append(pd.DataFrame({**key, **frame}))
            rows.append({**key, **_summary(reference, run, number, frame)})
    if not details:
        failed = "".join(f" {run.path} failed: {run.error}" for run in runs if run.error)
        raise OpensciError(
            f"There is nothing to compare with {reference.path}: name runs, and give them prompts.{failed}"
        )
    return pd.DataFrame(rows), pd.concat(details, ignore_index=True)


def _summary(reference: Run, run: Run, prompt: int, positions: pd.DataFrame) -> dict[str, Any]:
    """Return a row of `parity.csv` from the rows of `compare_positions`."""
    return {
        "positions": len(positions),
        "max_abs_diff": positions["max_abs_diff"].max(skipna=False),
        "mean_abs_diff": positions["mean_abs_diff"].mean(skipna=False),
        "max_kl": positions["kl"].max(skipna=False),
        "bitwise_equal": bool(positions["bitwise_equal"].all()),
        "top1_agreement": positions["top1_agreement"].mean(),
        "rope_max_abs_diff": positions[["cos_abs_diff", "sin_abs_diff"]].max(axis=None, skipna=False),
        "inv_freq_equal": _equal_bits(reference, run, f"{prompt}.inv_freq"),
        **_top_tokens(run, prompt),
        "completion": run.record["completions"][prompt],
        "verdict": _difference(reference, run, prompt, positions) or _equality(reference, run, prompt),
    }


def first_divergence(reference: Capture, candidate: Capture, prompt: int) -> tuple[str, int] | None:
    """Return (stage, position) where two runs first part, in causal order, or None where no stage in both differs.

    A stage is a module's name, or an attention module's name followed by `.q_rope` or `.k_rope`;
    the first stage with any difference counts, and in it the first position. None does not say that the runs are
    equal, as `difference` does: it knows only the stages that both have.
    """
    ours = dict(zip(reference.stages, reference[f"{prompt}.fingerprints"], strict=True))
    theirs = dict(zip(candidate.stages, candidate[f"{prompt}.fingerprints"], strict=True))
    for stage in reference.stages:
        if stage in theirs and (differs := ours[stage] != theirs[stage]).any():
            return stage, int(differs.argmax())
    return None


def describe_stage(stage: str) -> str:
    """Say a stage in words: "model.layers.0.self_attn.k_rope" is "layer 0, keys after RoPE"."""
    last, layer = stage.rpartition(".")[2], layer_of(stage)
    what = "the layer's output" if stage.endswith(f"layers.{layer}") else _STAGES.get(last, last)
    return what if layer is None else f"layer {layer}, {what}"


def layer_of(stage: str) -> int | None:
    """Return the number of the layer that a stage belongs to; None for those before and after all layers."""
    return next((int(part) for part in stage.split(".") if part.isdigit()), None)


def verdict(reference: Run, run: Run, prompt: int) -> str:
    """Say in a sentence whether `run` equals `reference` on a prompt and, if not, what explains it."""
    return difference(reference, run, prompt) or _equality(reference, run, prompt)


def _equality(reference: Run, run: Run, prompt: int) -> str:
    """Say of equal runs whether they were bound to be: whether they asked torch for the same operations."""
    name = f"{prompt}.trace"
    if name not in reference.capture or name not in run.capture:
        return EQUAL
    right, found = (trace.decoded(each.capture[name].tobytes()) for each in (reference, run))
    if first := trace.compare(right, found):
        return f"{EQUAL}, on this machine, by other operations: {first}"
    return f"{EQUAL}, and in operations: equal wherever torch is the same"


def difference(reference: Run, run: Run, prompt: int) -> str | None:
    """Say where `run` parts from `reference` on a prompt, and what explains it; None where nothing differs at all.

    Nothing differs where both have the same stages, and these, the logits, cos, sin and inv_freq the same bits.

    Raises:
        OpensciError: when the two can't be compared (`compare_positions`).

    """
    return _difference(reference, run, prompt, compare_positions(reference.capture, run.capture, prompt))


def _difference(reference: Run, run: Run, prompt: int, positions: pd.DataFrame) -> str | None:
    parting, notes = _parting(reference, run, prompt, positions), _notes(reference, run, positions)
    if parting:
        return f"{'; '.join([parting, *notes])}: {'; '.join(_causes(reference, run, prompt))}"
    if notes:
        return "; ".join(["has the reference's logits, and no stage in both differs", *notes])
    return None


def _parting(reference: Run, run: Run, prompt: int, positions: pd.DataFrame) -> str | None:
    """Say where the numbers of two runs first part, or None where all that are in both are equal."""
    unequal = ~positions["bitwise_equal"].to_numpy()
    stage = first_divergence(reference.capture, run.capture, prompt)
    rope = [name for name in ("cos", "sin", "inv_freq") if not _equal_bits(reference, run, f"{prompt}.{name}")]
    if stage:
        where = f"{describe_stage(stage[0])}, position {stage[1]}"
    elif unequal.any():
        where = f"the logits, position {unequal.argmax()}, though no stage in both differs"
    elif rope:
        where = " and ".join(rope)
    else:
        return None
    return f"parts from the reference at {where}" + ("" if unequal.any() else ", though the logits are equal")


def _notes(reference: Run, run: Run, positions: pd.DataFrame) -> list[str]:
    """Say what a reader must know besides: stages that were not compared, and NaN."""
    notes = []
    ours, theirs = set(reference.capture.stages), set(run.capture.stages)
    if ours != theirs:
        notes.append(f"{len(ours & theirs)} of {len(ours | theirs)} stages are in both")
    undefined = positions["max_abs_diff"].isna()
    if undefined.any():
        notes.append(f"the difference of the logits is NaN, first at position {undefined.argmax()}")
    return notes


def _causes(reference: Run, run: Run, prompt: int) -> list[str]:
    """Say what explains that two runs part."""
    causes = []
    if overwritten := run.record["weights"]["differing"]:
        causes.append(
            f"{len(overwritten)} of {run.record['weights']['tensors']} tensors differ from the checkpoint: "
            "the model's own _init_weights overwrote them after loading"
        )
    if not _equal_bits(reference, run, f"{prompt}.inv_freq"):
        causes.append(_inv_freq(*(_numbers(each.capture[f"{prompt}.inv_freq"]) for each in (run, reference))))
    for part, name in _CONDITIONS:
        ours, right = (each.record[part].get(name) for each in (run, reference))
        if ours != right:
            causes.append(f"its {name} is {ours}, the reference's {right}")
    return causes or ["weights and inv_freq are right, so the computation differs"]


def _inv_freq(held: str, right: str) -> str:
    """Say how inv_freq differs, by its first numbers in print: uninitialised memory shows there."""
    if held == right:
        return f"inv_freq has other bits than the reference's, though both print as {right}"
    return f"inv_freq holds {held} where {right} belongs: the buffer was left as uninitialised memory after loading"


def _top_tokens(run: Run, prompt: int) -> dict[str, Any]:
    first, second = run.record["top_tokens"][prompt][:2]
    return {
        "top1_token": first["token"],
        "top1_logit": first["logit"],
        "top2_token": second["token"],
        "top2_logit": second["logit"],
        "gap": first["logit"] - second["logit"],
    }


def _equal_bits(reference: Run, run: Run, name: str) -> bool:
    return bool(same_bits(*_both(reference.capture, run.capture, name)).all())


def _numbers(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values[:3]) + ", …]"
