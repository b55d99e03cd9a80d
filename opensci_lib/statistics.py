"""Compare the scores of two evaluations item by item."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

_SMALL = 25  # discordant items up to which McNemar's test is computed exactly (Fagerland et al. 2013)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """How a candidate's items compare with the reference's.

    `score` and `reference` are means over items of the column `value` (0 or 1 for accuracy), and `standard_error` is
    that of `score`; `difference` is their difference with its 95 % paired bootstrap interval `low` to `high`;
    `agreement` is the share of items with the same prediction, `changed` the number with another; `p_value` is
    McNemar's; `largest_change` is that of any log-likelihood (nats). `equal` says that all log-likelihoods are bit
    for bit the reference's: the rest is then exact, not estimated.
    """

    items: int
    score: float
    standard_error: float
    reference: float
    difference: float
    low: float
    high: float
    agreement: float
    changed: int
    p_value: float
    largest_change: float
    equal: bool


def compare_items(reference: pd.DataFrame, candidate: pd.DataFrame) -> Comparison:
    """Compare two tables of the same items of one task.

    Columns: `doc_id`, `text` (together the key), `value`, `prediction`, `loglikelihoods` (a list each).

    Raises:
        ValueError: when the two do not hold the same items.

    """
    keys = ["doc_id", "text"]
    both = reference.merge(candidate, on=keys, suffixes=("_reference", ""), validate="one_to_one")
    if not len(both) == len(reference) == len(candidate):
        raise ValueError(f"{len(reference)} and {len(candidate)} items have only {len(both)} in common")
    names = ("loglikelihoods", "loglikelihoods_reference")
    ours, theirs = (np.concatenate(both[name].map(np.asarray).to_list()) for name in names)
    equal = bool(np.array_equal(ours.view(np.int64), theirs.view(np.int64)))
    right, before = both["value"].to_numpy(float), both["value_reference"].to_numpy(float)
    low, high = paired_bootstrap(before, right)
    return Comparison(
        items=len(both),
        score=float(right.mean()),
        standard_error=standard_error(right),
        reference=float(before.mean()),
        difference=float((right - before).mean()),
        low=low,
        high=high,
        agreement=float((both["prediction"] == both["prediction_reference"]).mean()),
        changed=int((both["prediction"] != both["prediction_reference"]).sum()),
        p_value=mcnemar(before, right),
        largest_change=float(np.abs(ours - theirs).max()),
        equal=equal,
    )


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of a mean: s / sqrt(n), with s of n - 1 degrees of freedom; NaN for one value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """Return the two-sided p-value of McNemar's test for paired outcomes of 0 and 1; NaN for other values.

    Only items that one run got right and the other wrong count. Up to 25 of them: exact, a binomial test with
    probability one half; more: chi-square with one degree of freedom and Edwards' continuity correction,
    (|b - c| - 1)^2 / (b + c). Sources: McNemar 1947; Edwards 1948.
    """
    if not np.isin([before, after], (0, 1)).all():
        return float("nan")
    gained, lost = int(((after == 1) & (before == 0)).sum()), int(((after == 0) & (before == 1)).sum())
    count = gained + lost
    if count == 0:
        return 1.0
    if count <= _SMALL:
        return float(stats.binomtest(gained, count, 0.5).pvalue)
    return float(stats.chi2.sf((abs(gained - lost) - 1) ** 2 / count, df=1))


def paired_bootstrap(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of mean(after - before), resampling items; the same one on every call.

    Source: Efron and Tibshirani 1993, chapter 13; `scipy.stats.bootstrap`. Where no item differs, or there is one
    item only, the interval is the difference itself.
    """
    differences = after - before
    if len(differences) < 2 or (differences == differences[0]).all():
        return float(differences[0]), float(differences[0])
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
