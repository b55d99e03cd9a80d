"""The statistics on cases small enough to work out by hand."""

import numpy as np
import pandas as pd
import pytest

from opensci_lib.statistics import compare_items, mcnemar, paired_bootstrap, standard_error


def table(values, predictions=None, likelihoods=None):
    count = len(values)
    return pd.DataFrame(
        {
            "doc_id": range(count),
            "text": [f"item {i}" for i in range(count)],
            "value": values,
            "prediction": predictions or ["x"] * count,
            "loglikelihoods": likelihoods or [[-1.0, -2.0]] * count,
        }
    )


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 2**5),
        (3, 1, 2 * (1 + 4) / 2**4),
        (2, 2, 1.0),
    ],
)
def test_mcnemar_exact(gained, lost, p):
    before = np.array([0.0] * gained + [1.0] * lost + [1.0, 0.0])
    after = np.array([1.0] * gained + [0.0] * lost + [1.0, 0.0])
    assert mcnemar(before, after) == pytest.approx(p)


def test_mcnemar_of_many_is_chi_square_with_correction():
    before, after = np.array([0.0] * 40 + [1.0] * 20), np.array([1.0] * 40 + [0.0] * 20)
    # (|40 - 20| - 1)^2 / 60 = 6.0167; the chi-square table gives 0.0142
    assert mcnemar(before, after) == pytest.approx(0.0142, abs=5e-5)


def test_mcnemar_needs_right_and_wrong():
    assert np.isnan(mcnemar(np.array([0.5, 1.0]), np.array([1.0, 1.0])))
    assert np.isnan(mcnemar(np.array([np.nan]), np.array([1.0])))


def test_standard_error():
    assert standard_error(np.array([0.0, 1.0])) == pytest.approx(0.5)  # s = sqrt(1/2), over sqrt(2)
    assert standard_error(np.array([1.0, 1.0, 1.0])) == 0
    assert np.isnan(standard_error(np.array([1.0])))


def test_the_bootstrap_of_nothing_changed_is_a_point():
    same = np.array([0.0, 1.0, 1.0])
    assert paired_bootstrap(same, same) == (0, 0)
    assert paired_bootstrap(np.array([0.0]), np.array([1.0])) == (1, 1)


def test_the_bootstrap_agrees_with_the_normal_approximation():
    draw = np.random.default_rng(1)
    before = draw.normal(size=400)
    after = before + draw.normal(0.5, 1, size=400)
    low, high = paired_bootstrap(before, after)
    mean, error = (after - before).mean(), standard_error(after - before)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.3 * error)
    assert (low, high) == paired_bootstrap(before, after)


def test_equal_items():
    found = compare_items(table([1.0, 0.0]), table([1.0, 0.0]))
    assert (found.equal, found.changed, found.agreement, found.difference, found.p_value) == (True, 0, 1, 0, 1)


def test_one_bit_is_not_equal():
    nudged = float(np.nextafter(-1.0, 0))
    found = compare_items(table([1.0], likelihoods=[[-1.0]]), table([1.0], likelihoods=[[nudged]]))
    assert not found.equal
    assert 0 < found.largest_change < 1e-15
    assert found.agreement == 1


def test_items_are_paired_by_their_key_not_their_order():
    reference = table([1.0, 0.0, 1.0, 1.0], list("abcd"))
    candidate = table([0.0, 0.0, 1.0, 1.0], list("Abcd")).iloc[::-1]
    found = compare_items(reference, candidate)
    assert (found.reference, found.score, found.difference) == (0.75, 0.5, -0.25)
    assert (found.changed, found.agreement) == (1, 0.75)


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="2 and 3 items have only 2 in common"):
        compare_items(table([1.0, 0.0]), table([1.0, 0.0, 1.0]))
