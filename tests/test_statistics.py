"""The statistics against scipy, against numpy, and on cases small enough to work out by hand."""

from math import erfc, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from opensci_lib.errors import OpensciError
from opensci_lib.reports.statistics import (
    changed_predictions,
    compare_items,
    mcnemar,
    paired_bootstrap,
    standard_error,
)

NAN = float("nan")
OTHER_NAN = np.array([0x7FF8000000000001]).view(float)[0]


def pairs(value, value_reference, **columns):
    """Paired items: by default each has the prediction "x" and the log-likelihoods -1 and -2 on both sides."""
    count = len(value)
    default = {
        "prediction": ["x"] * count,
        "prediction_reference": ["x"] * count,
        "loglikelihoods": [[-1.0, -2.0]] * count,
        "loglikelihoods_reference": [[-1.0, -2.0]] * count,
    }
    return pd.DataFrame({"value": value, "value_reference": value_reference, **default, **columns})


def outcomes(gained, lost, right=1, wrong=1):
    """Before and after of items of which some were gained, some lost, and some stayed right or wrong."""
    before = np.array([0.0] * gained + [1.0] * (lost + right) + [0.0] * wrong)
    after = np.array([1.0] * gained + [0.0] * lost + [1.0] * right + [0.0] * wrong)
    return before, after


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 2**5),
        (0, 5, 2 / 2**5),
        (3, 1, 2 * (1 + 4) / 2**4),
        (2, 2, 1.0),
    ],
)
def test_mcnemar_by_hand(gained, lost, p):
    assert mcnemar(*outcomes(gained, lost)) == pytest.approx(p)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (18, 7, 726_206 / 2**24),  # C(25, 0) + ... + C(25, 7) = 726,206, twice over 2^25; chi-square would say 0.0455
        (18, 8, erfc(sqrt(81 / 26 / 2))),  # (|18 - 8| - 1)^2 / 26; the binomial tail would say 0.0755
        (13, 13, erfc(sqrt(1 / 26 / 2))),
        (40, 20, erfc(sqrt(19**2 / 60 / 2))),
    ],
)
def test_mcnemar_is_exact_up_to_25_items(gained, lost, p):
    """From 26 on it is chi-square of one degree of freedom: the square of a normal variable, whose tail is erfc."""
    assert mcnemar(*outcomes(gained, lost)) == pytest.approx(p)
    assert mcnemar(*outcomes(lost, gained)) == pytest.approx(p)


@pytest.mark.parametrize("count", [1, 2, 9, 24, 25])
def test_mcnemar_of_few_is_scipys_binomial_test(count):
    for gained in range(count + 1):
        expected = min(1.0, 2 * stats.binom.cdf(min(gained, count - gained), count, 0.5))
        assert mcnemar(*outcomes(gained, count - gained)) == pytest.approx(expected)


@pytest.mark.parametrize("count", [26, 27, 100])
def test_mcnemar_of_many_is_scipys_chi_square_test_with_half_an_item_off_each_side(count):
    for gained in range((count + 1) // 2):
        expected = stats.chisquare([gained + 0.5, count - gained - 0.5]).pvalue
        assert mcnemar(*outcomes(gained, count - gained)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, NAN, np.inf])
def test_mcnemar_needs_right_and_wrong(value):
    assert np.isnan(mcnemar(np.array([value, 1.0]), np.array([1.0, 1.0])))
    assert np.isnan(mcnemar(np.array([1.0, 1.0]), np.array([1.0, value])))


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 1.0, 1.0, 1.0], [2.5, -1.0, 7.0, 7.0, 0.25]])
def test_the_standard_error_is_scipys(values):
    assert standard_error(np.array(values)) == pytest.approx(stats.sem(values))


def test_the_standard_error_by_hand():
    assert standard_error(np.array([0.0, 1.0])) == pytest.approx(0.5)  # s = sqrt(1/2), over sqrt(2)
    assert standard_error(np.array([1.0, 1.0, 1.0])) == 0
    assert np.isnan(standard_error(np.array([1.0])))
    assert np.isnan(standard_error(np.array([1.0, NAN, 0.0])))


def test_the_bootstrap_of_nothing_changed_is_a_point():
    same = np.array([0.0, 1.0, 1.0])
    assert paired_bootstrap(same, same) == (0, 0)
    assert paired_bootstrap(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == (1, 1)
    assert paired_bootstrap(np.array([0.0]), np.array([1.0])) == (1, 1)
    assert paired_bootstrap(np.array([1.0]), np.array([0.0])) == (-1, -1)


def test_the_bootstrap_of_two_values_has_the_binomials_percentiles():
    """Of 16 items half gain a point: a resampled sum is binomial, and 4 and 12 are its 2.5 and 97.5 % points."""
    before, after = np.zeros(16), np.array([0.0, 1.0] * 8)
    assert stats.binom.ppf([0.025, 0.975], 16, 0.5).tolist() == [4, 12]
    assert stats.binom.ppf([0.05, 0.95], 16, 0.5).tolist() == [5, 11]
    assert paired_bootstrap(before, after) == (4 / 16, 12 / 16)
    assert paired_bootstrap(after, before) == (-12 / 16, -4 / 16)


def test_the_bootstrap_is_numpys_with_2000_resamples():
    draw = np.random.default_rng(1)
    before = draw.normal(size=50)
    after = before + draw.exponential(size=50)
    resamples = np.random.default_rng(0).integers(0, 50, (2000, 50))
    expected = np.percentile((after - before)[resamples].mean(axis=1), [2.5, 97.5])
    assert paired_bootstrap(before, after) == pytest.approx(expected)
    assert paired_bootstrap(before, after) == paired_bootstrap(before, after)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_bootstrap_of_nan_is_nan(place):
    before, after = np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0])
    after[place] = NAN
    assert np.isnan(paired_bootstrap(before, after)).all()
    after[place] = np.inf
    assert np.isnan(paired_bootstrap(before, after)).all()
    assert np.isnan(paired_bootstrap(np.array([1.0]), np.array([NAN]))).all()


def test_every_field_by_hand():
    """Five items; the first and third were right in the reference and are wrong now."""
    found = compare_items(
        pairs(
            [0.0, 0.0, 0.0, 1.0, 1.0],
            [1.0, 0.0, 1.0, 1.0, 1.0],
            prediction=["b", "c", "b", "a", "a"],
            prediction_reference=["a", "b", "a", "a", "a"],
            loglikelihoods=[[-3.0, -2.0], [-1.0], [-4.5], [-1.0], [-1.0, -2.0]],
            loglikelihoods_reference=[[-1.0, -2.0], [-1.0], [-1.0], [-1.0], [-1.0, -2.0]],
        )
    )
    assert (found.items, found.score, found.reference) == (5, 0.4, 0.8)
    assert found.difference == pytest.approx(-0.4)
    assert found.standard_error == pytest.approx(np.sqrt(0.3 / 5))  # squared deviations of the score add up to 1.2
    # A resampled number of lost items is binomial (5, 0.4): P(0) = 7.8 %, P(5) = 1.0 %, P(4 or 5) = 8.7 %.
    assert (found.low, found.high) == (-0.8, 0)
    assert (found.agreement, found.changed) == (0.4, 3)
    assert found.p_value == pytest.approx(0.5)  # two lost, none gained: 2 / 2^2
    assert found.largest_change == 3.5
    assert found.equal is False


def test_equal_items():
    found = compare_items(pairs([1.0, 0.0], [1.0, 0.0]))
    assert (found.equal, found.changed, found.agreement, found.difference, found.p_value) == (True, 0, 1, 0, 1)
    assert (found.largest_change, found.low, found.high) == (0, 0, 0)


def test_one_item():
    found = compare_items(pairs([1.0], [0.0]))
    assert (found.items, found.score, found.reference, found.p_value) == (1, 1, 0, 1)
    assert (found.low, found.high) == (1, 1)
    assert np.isnan(found.standard_error)


def test_no_items():
    with pytest.raises(OpensciError) as caught:
        compare_items(pairs([], []))
    assert str(caught.value) == "There are no items to compare: evaluate both runs on the same tasks."


@pytest.mark.parametrize(
    ("ours", "theirs", "change"),
    [
        (float(np.nextafter(-1.0, 0)), -1.0, 2**-53),  # one unit in the last place
        (-0.0, 0.0, 0),
        (NAN, -1.0, NAN),
        (-1.0, NAN, NAN),
        (OTHER_NAN, NAN, NAN),
        (-np.inf, -1.0, np.inf),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_one_bit_is_not_equal(ours, theirs, change, place):
    likelihoods, reference = [[-1.0], [-2.0]], [[-1.0], [-2.0]]
    likelihoods[place], reference[place] = [ours], [theirs]
    found = compare_items(
        pairs([1.0, 1.0], [1.0, 1.0], loglikelihoods=likelihoods, loglikelihoods_reference=reference)
    )
    assert found.equal is False
    assert found.largest_change == pytest.approx(change, rel=1e-15, nan_ok=True)
    assert (found.changed, found.agreement) == (0, 1)


@pytest.mark.parametrize("value", [NAN, -np.inf])
def test_the_same_bits_are_no_change(value):
    likelihoods = [[value], [-1.0]]
    found = compare_items(
        pairs([1.0, 1.0], [1.0, 1.0], loglikelihoods=likelihoods, loglikelihoods_reference=likelihoods)
    )
    assert (found.equal, found.largest_change) == (True, 0)


def test_nan_is_not_passed_over_for_a_larger_change():
    found = compare_items(pairs([1.0], [1.0], loglikelihoods=[[NAN, -7.0]]))
    assert np.isnan(found.largest_change)


@pytest.mark.parametrize(("ours", "theirs", "equal"), [(NAN, 1.0, False), (1.0, NAN, False), (NAN, NAN, True)])
def test_an_item_neither_right_nor_wrong_makes_its_scores_nan(ours, theirs, equal):
    found = compare_items(pairs([1.0, ours, 1.0], [1.0, theirs, 1.0]))
    assert np.isnan([found.difference, found.low, found.high, found.p_value]).all()
    assert np.isnan([found.score, found.standard_error]).all() == np.isnan(ours)
    assert np.isnan(found.reference) == np.isnan(theirs)
    assert (found.equal, found.changed) == (equal, 0)


def test_the_same_likelihoods_with_another_score_are_not_equal():
    assert not compare_items(pairs([1.0, 1.0], [1.0, 0.0])).equal


def test_the_same_likelihoods_with_another_prediction_are_not_equal():
    found = compare_items(pairs([1.0, 0.0], [1.0, 0.0], prediction=["x", "y"]))
    assert (found.equal, found.changed, found.agreement, found.largest_change) == (False, 1, 0.5, 0)


@pytest.mark.parametrize("missing", ["", None, NAN])
def test_a_prediction_that_one_side_lacks_has_changed(missing):
    items = pairs([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], prediction=["x", missing, missing])
    items["prediction_reference"] = ["x", "x", missing]
    assert changed_predictions(items).tolist() == [False, True, False]
    turned = items.rename(columns={"prediction": "prediction_reference", "prediction_reference": "prediction"})
    for table in (items, turned):
        found = compare_items(table)
        assert (found.changed, found.agreement, found.p_value) == (1, pytest.approx(2 / 3), 1)


@pytest.mark.parametrize("missing", ["", None, NAN])
def test_tokens_have_no_predictions_to_agree_in(missing):
    """Also where each -log p happens to be 0 or 1, as an accuracy is."""
    none = [missing, missing]
    found = compare_items(pairs([1.0, 0.0], [1.0, 1.0], prediction=none, prediction_reference=none))
    assert np.isnan([found.agreement, found.p_value]).all()
    assert found.changed is None
    assert (found.score, found.reference, found.difference) == (0.5, 1, -0.5)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0]), *[st.sampled_from("ab")] * 2),
        min_size=1,
        max_size=40,
    )
)
def test_exchanged_sides_negate_the_difference_and_nothing_else(rows):
    value, reference, prediction, prediction_reference = map(list, zip(*rows, strict=True))
    one = compare_items(pairs(value, reference, prediction=prediction, prediction_reference=prediction_reference))
    two = compare_items(pairs(reference, value, prediction=prediction_reference, prediction_reference=prediction))
    assert (one.score, one.reference, one.difference) == (two.reference, two.score, -two.difference)
    for field in ("items", "agreement", "changed", "p_value", "largest_change", "equal"):
        assert getattr(one, field) == getattr(two, field)
    assert one.low <= one.high
    assert not one.equal or (one.difference, one.low, one.high, one.changed, one.p_value) == (0, 0, 0, 0, 1)
