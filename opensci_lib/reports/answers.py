"""What another engine answers beside the reference: log-probabilities at each position, and the likeliest tokens.

Other kernels give other last bits. How far off they are is what there is to say, and how far off the same engine is
from transformers on a model of their own code (`runs.yardstick`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.reports.compare import Run
from opensci_lib.reports.findings import number
from opensci_lib.runs.capture import Capture
from opensci_lib.runs.logits import abs_diff
from opensci_lib.runs.vllm import answers
from opensci_lib.runs.yardstick import BY_TRANSFORMERS, BY_VLLM

#: Whose answers a row is about: those of the folder, or those of the native model beside it.
OURS, NATIVE = "fixed", "native"
#: What a report says above these figures.
ABOUT = """## The same answers by another engine

vLLM runs the fixed folder in layers and kernels of its own, so its last bits are others; it tells log-probabilities
instead of logits. They are compared with those of the reference run, at each position: that of the prompt's next
token, and the likeliest tokens. *native* is the yardstick: a model of transformers' own code, Qwen3 or Llama, with
the folder's weights less biases, by vLLM against transformers on the same release."""


def compare(reference: Capture, candidate: Capture, prompt: int) -> pd.DataFrame:
    """Compare what two captures of one prompt say of the next token, at each position.

    Returns a row a position and the columns `position`; `logprob_reference` and `logprob`, of the prompt's next
    token, nats, NaN at the last position, which none follows; `change`, nats, by how much that differs
    (`logits.abs_diff`); `top_change`, nats, the largest change of a log-probability among the tokens that both keep;
    `same_top`, bool, whether the likeliest token is the same; `shared` of `kept`, int, how many of the likeliest
    tokens are kept by both.

    Raises:
        OpensciError: when the two are not of the same tokens.

    """
    ids, others = (capture[f"{prompt}.token_ids"] for capture in (reference, candidate))
    if not np.array_equal(ids, others):
        raise OpensciError(
            f"{candidate.path} holds other tokens of prompt {prompt} than {reference.path}: run both on the same "
            "prompts, in the same order."
        )
    right, found = (answers(capture, prompt) for capture in (reference, candidate))
    logprobs = [np.append(-each["surprisal"], np.nan) for each in (right, found)]
    kept = [
        [dict(zip(*pair, strict=True)) for pair in zip(each["top_ids"], each["top_logprobs"], strict=True)]
        for each in (right, found)
    ]
    both = [sorted(ours.keys() & theirs.keys()) for theirs, ours in zip(*kept, strict=True)]
    return pd.DataFrame(
        {
            "position": np.arange(len(ids)),
            "logprob_reference": logprobs[0],
            "logprob": logprobs[1],
            "change": np.append(abs_diff(right["surprisal"], found["surprisal"]), np.nan),
            "top_change": [
                max((abs(ours[token] - theirs[token]) for token in tokens), default=np.nan)
                for tokens, theirs, ours in zip(both, *kept, strict=True)
            ],
            "same_top": right["top_ids"][:, 0] == found["top_ids"][:, 0],
            "shared": [len(tokens) for tokens in both],
            "kept": right["top_ids"].shape[1],
        }
    )


def positions(reference: Run, runs: list[Run]) -> pd.DataFrame:
    """Return the rows of `compare` for each run by another engine and prompt, and for the native model beside it.

    Before them the columns `tf_version`, `variant`, `of` (`OURS` or `NATIVE`) and `prompt`; behind them `token`, the
    text of the prompt's next token. Runs that failed have no rows.
    """
    frames = []
    for run in (run for run in runs if run.error is None):
        pairs = {OURS: (reference.capture, run.capture)}
        if (run.path / BY_VLLM).exists():
            pairs[NATIVE] = (Capture(run.path / BY_TRANSFORMERS), Capture(run.path / BY_VLLM))
        for prompt, tokens in enumerate(run.record["tokens"]):
            for of, pair in pairs.items():
                key = {"tf_version": run.tf_version, "variant": run.variant, "of": of, "prompt": prompt}
                frames.append(pd.DataFrame({**key, **compare(*pair, prompt), "token": [*tokens[1:], ""]}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Gather the rows of `positions`: a row an engine, model and prompt.

    Columns: `tf_version`, `variant`, `of`, `prompt`, `positions`; `max_change`, nats, NaN where one before the
    last is, with `position` and `token`, where it is; `top_change`, the largest; `same_top` and `shared`, counts in
    words.
    """
    found = []
    keys = ["tf_version", "variant", "of", "prompt"]
    for _, frame in rows.groupby(keys, sort=False):
        scored = frame.iloc[:-1]
        where: dict[str, Any] = {"max_change": np.nan, "position": None, "token": ""}
        if len(scored):
            undefined = scored["change"].isna()
            worst = scored.loc[undefined.idxmax() if undefined.any() else scored["change"].idxmax()]
            where = {"max_change": worst["change"], "position": worst["position"], "token": worst["token"]}
        found.append(
            {
                **frame.iloc[0][keys],
                "positions": len(frame),
                **where,
                "top_change": frame["top_change"].max(skipna=False),
                "same_top": f"{frame['same_top'].sum()} of {len(frame)}",
                "shared": f"{frame['shared'].sum()} of {frame['kept'].sum()}",
            }
        )
    return pd.DataFrame(found)


def verdict(rows: pd.DataFrame, runs: list[Run]) -> list[str]:
    """Say in a sentence for each run by another engine how far it is from the reference, and the native model.

    `rows` are those of `positions`; of a run that failed its sentence says why.
    """
    sentences = []
    for run in runs:
        name = f"**{run.variant}** on {run.tf_version}"
        if run.error:
            sentences.append(f"{name} failed: {run.error}")
            continue
        of_run = rows[(rows["tf_version"] == run.tf_version) & (rows["variant"] == run.variant)]
        said = {of: _said(frame) for of, frame in of_run.groupby("of", sort=False)}
        native = f" A native model in its place {said[NATIVE]}." if NATIVE in said else ""
        sentences.append(f"{name} {said[OURS]}.{native}")
    return sentences


def _said(frame: pd.DataFrame) -> str:
    followed = frame["position"] < frame.groupby("prompt")["position"].transform("max")
    change = frame.loc[followed, "change"].max(skipna=False) if followed.any() else 0.0
    return (
        f"moves no log-probability of a prompt's token by more than {number(change, 2)} nats, and has the same "
        f"likeliest token at {frame['same_top'].sum()} of {len(frame)} positions"
    )
