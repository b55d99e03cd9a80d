"""Tables of an evaluation's items, from what lm-evaluation-harness logs of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

#: What stands for any other continuation, where only one was put to the model and it was not the likeliest.
OTHERWISE = "(something else)"


def samples(configs: dict[str, dict[str, Any]], logged: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Return `samples.parquet`: a row per item, see `sample_row`.

    `configs` and `logged` are the harness's `configs` and `samples`, both by task.
    """
    rows = [sample_row(task, configs[task], item) for task, items in logged.items() for item in items]
    return pd.DataFrame(rows).astype({"correct": float})


def sample_row(task: str, config: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return one item's row.

    - `task`, `doc_id`: which item
    - `text`: the context shown, the first one where each choice has its own
    - `choices`: the continuations put to the model, or their contexts where all share one continuation
    - `loglikelihoods`: of each choice, nats, float64, not divided by its length; of a perplexity task the text's
    - `target`: the right choice, several joined by " or "; "" where none of `choices` is known to be right
    - `prediction`: the choice of the largest log-likelihood, the first of equal ones; of a single continuation itself
      where it is what greedy decoding says, else `OTHERWISE`
    - `correct`: the harness's `acc`, 0 or 1, which goes by the same log-likelihoods, never `acc_norm`, which divides
      them by length; NaN where a task has no `acc`
    """
    arguments, responses = item["arguments"], [response[0] for response in item["resps"]]
    row = {"task": task, "doc_id": item["doc_id"], "text": arguments[0][0], "correct": item.get("acc", float("nan"))}
    if config["output_type"] == "loglikelihood_rolling":
        return {**row, "target": "", "choices": [], "loglikelihoods": [float(responses[0])], "prediction": ""}
    likelihoods = [float(likelihood) for likelihood, _ in responses]
    contexts, choices = zip(*arguments, strict=True)
    if config["output_type"] == "loglikelihood":
        _, greedy = responses[0]
        target, prediction = choices[0], choices[0] if greedy else OTHERWISE
    else:
        if len(set(choices)) == 1:  # as in winogrande: what differs is the context
            choices = contexts
        right = item["target"] if isinstance(item["target"], list) else [item["target"]]  # numbers or texts
        put = [choice.removeprefix(config["target_delimiter"]) for choice in choices]
        target = " or ".join(choices[i] for i, text in enumerate(put) if i in right or text in right)
        prediction = choices[int(np.argmax(likelihoods))]
    return {
        **row,
        "target": target,
        "choices": list(choices),
        "loglikelihoods": likelihoods,
        "prediction": prediction,
    }


def positions(
    configs: dict[str, dict[str, Any]],
    logged: dict[str, list[dict[str, Any]]],
    token_nats: Callable[[str], list[float]],
) -> pd.DataFrame:
    """Return `positions.parquet`, a row per token of perplexity tasks: `task`, `doc_id`, `position`, `nats`, float64.

    `configs` and `logged` as in `samples`; `token_nats` gives -log p of each token of a text.
    """
    rows = [
        (task, item["doc_id"], position, nats)
        for task, items in logged.items()
        if configs[task]["output_type"] == "loglikelihood_rolling"
        for item in items
        for position, nats in enumerate(token_nats(item["arguments"][0][0]))
    ]
    # Without rows, pandas could not tell the types.
    columns = {"task": str, "doc_id": int, "position": int, "nats": float}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def likelihoods(items: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-likelihoods of paired items, a run's and the reference's, one after the other: float64, nats."""
    ours, theirs = (
        np.concatenate(items[name].to_list(), dtype=float) for name in ("loglikelihoods", "loglikelihoods_reference")
    )
    return ours, theirs
