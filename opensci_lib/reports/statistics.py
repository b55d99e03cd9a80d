"""Compare the scores of two evaluations item by item."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from opensci_lib.errors import OpensciError
from opensci_lib.evaluation.items import likelihoods
from opensci_lib.runs.logits import abs_diff, same_bits

_SMALL = 25  # discordant items up to which McNemar's test is computed exactly (Fagerland et al. 2013)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """How a run's items compare with the reference's.

    `score` and `reference` are the two means over items of the column `value` (0 or 1 for accuracy), and
    `standard_error` is that of `score`; `difference` is `score` less `reference`, with its 95 % paired bootstrap
    interval `low` to `high`. `agreement` is the share of items with the same prediction, `changed` the number with
    another, and `p_value` McNemar's: NaN, None and NaN where no item has a prediction. `largest_change` is that of
    any log-likelihood (nats): 0 where its bits are the same, else NaN where one of the two is NaN. `equal` says that
    all log-likelihoods and values are bit for bit the reference's and all predictions the same: the rest is then
    exact, not estimated.
    """

    items: int
    score: float
    standard_error: float
    reference: float
    difference: float
    low: float
    high: float
    agreement: float
    changed: int | None
    p_value: float
    largest_change: float
    equal: bool


def compare_items(items: pd.DataFrame) -> Comparison:
    """Compare the paired items of one task.

    Columns, each also with the suffix `_reference`: `value` (float), `prediction` (empty or missing where there is
    none), `loglikelihoods` (nats, a list for each item, as long as the reference's).

    Raises:
        OpensciError: when there are no items.

    """
    if items.empty:
        raise OpensciError("There are no items to compare: evaluate both runs on the same tasks.")
    after, before = (items[name].to_numpy(float) for name in ("value", "value_reference"))
    ours, theirs = likelihoods(items)
    changed = changed_predictions(items)
    predicted = _predictions(items).ne("").any(axis=None)
    low, high = paired_bootstrap(before, after)
    return Comparison(
        items=len(items),
        score=float(after.mean()),
        standard_error=standard_error(after),
        reference=float(before.mean()),
        difference=float((after - before).mean()),
        low=low,
        high=high,
        agreement=float((~changed).mean()) if predicted else float("nan"),
        changed=int(changed.sum()) if predicted else None,
        p_value=mcnemar(before, after) if predicted else float("nan"),
        largest_change=float(abs_diff(ours, theirs).max()),
        equal=bool(same_bits(ours, theirs).all() and same_bits(after, before).all() and not changed.any()),
    )


def changed_predictions(items: pd.DataFrame) -> pd.Series:
    """Say of each paired item whether its prediction is another than the reference's; none is the same as none."""
    predictions = _predictions(items)
    return predictions["prediction"] != predictions["prediction_reference"]


def _predictions(items: pd.DataFrame) -> pd.DataFrame:
    # A column that holds nothing but NaN is one of numbers, which words can't fill.
    return items[["prediction", "prediction_reference"]].astype(object).fillna("")


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

    Source: Efron and Tibshirani 1993, chapter 13; `scipy.stats.bootstrap`. Where all items differ by the same, as
    where none does or there is one only, the interval is that difference; where one is not finite, it is NaN.
    """
    differences = after - before
    if not np.isfinite(differences).all():
        return float("nan"), float("nan")
    if (differences == differences[0]).all():
        return float(differences[0]), float(differences[0])
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
