"""Numbers about rows of logits, against scipy, plain loops and numbers worked out on paper."""

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from opensci_lib.runs import logits
from opensci_lib.runs.logits import abs_diff, compare_rows, same_bits, surprisal

pytestmark = pytest.mark.filterwarnings("error")  # what is not defined is NaN, without a word on stderr

NAN, INF = math.nan, math.inf
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def rows(*values, dtype=np.float32):
    return np.array(values, dtype)


def drawn(positions, vocabulary, dtype=np.float32, scale=4.0, seed=0):
    """Return two arrays of logits, of which about half the rows are the same."""
    draw = np.random.default_rng(seed)
    a = draw.normal(0, scale, (positions, vocabulary)).astype(dtype)
    b = draw.normal(0, scale, (positions, vocabulary)).astype(dtype)
    same = draw.random(positions) < 0.5
    b[same] = a[same]
    return a, b


def by_loops(reference, candidate):
    """Compute finite rows element by element, with scipy's distributions."""
    expected = {"bitwise_equal": [], "max_abs_diff": [], "mean_abs_diff": [], "kl": [], "top1_agreement": []}
    for a, b in zip(reference, candidate, strict=True):
        differences = [abs(float(x) - float(y)) for x, y in zip(a, b, strict=True)]
        expected["bitwise_equal"].append(a.tobytes() == b.tobytes())
        expected["max_abs_diff"].append(max(differences))
        expected["mean_abs_diff"].append(math.fsum(differences) / len(differences))
        p, q = (np.exp(log_softmax(row.astype(np.float64))) for row in (a, b))
        expected["kl"].append(rel_entr(p, q).sum())
        first = [list(map(float, row)).index(max(map(float, row))) for row in (a, b)]
        expected["top1_agreement"].append(first[0] == first[1])
    return expected


def expect(compared, expected):
    assert compared.keys() == expected.keys()
    for name, values in expected.items():
        assert compared[name].dtype == (bool if name in ("bitwise_equal", "top1_agreement") else np.float64)
        np.testing.assert_allclose(compared[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("positions", "vocabulary"), [(1, 1), (1, 9), (40, 1), (40, 9), (7, 300)])
def test_finite_rows(dtype, positions, vocabulary):
    a, b = drawn(positions, vocabulary, dtype)
    expect(compare_rows(a, b), by_loops(a, b))


def test_on_paper():
    """Two words, p = (1/2, 1/2) and q = (3/4, 1/4): KL(p || q) = ln(4/3) / 2, KL(q || p) = ln(27/16) / 4."""
    even, uneven = rows([0, 0], dtype=np.float64), rows([math.log(3), 0], dtype=np.float64)
    forth, back = compare_rows(even, uneven), compare_rows(uneven, even)
    assert forth["kl"] == pytest.approx(math.log(4 / 3) / 2)
    assert back["kl"] == pytest.approx(math.log(27 / 16) / 4)
    assert forth["max_abs_diff"] == back["max_abs_diff"] == math.log(3)
    assert forth["mean_abs_diff"] == back["mean_abs_diff"] == math.log(3) / 2


def test_of_several_largest_logits_the_first_counts():
    compared = compare_rows(rows([1, 1, 0], [1, 1, 0], [0, 1, 1]), rows([1, 0, 0], [0, 1, 0], [0, 1, 0]))
    assert compared["top1_agreement"].tolist() == [True, False, True]


def test_extreme_logits():
    """All the probability moves from the first word to the second: KL is the difference of log q, 2e4 nats."""
    compared = compare_rows(rows([1e4, -1e4, 0]), rows([-1e4, 1e4, 0]))
    assert compared["kl"] == pytest.approx(2e4)
    assert compared["max_abs_diff"] == 2e4
    assert compared["mean_abs_diff"] == pytest.approx(4e4 / 3)
    assert not compared["top1_agreement"]


def test_a_word_that_both_rule_out_adds_nothing():
    compared = compare_rows(rows([0, 0, -INF]), rows([math.log(3), 0, -INF]))
    assert compared["kl"] == pytest.approx(math.log(4 / 3) / 2)
    assert compared["max_abs_diff"] == pytest.approx(math.log(3))
    assert compared["mean_abs_diff"] == pytest.approx(math.log(3) / 3)
    assert compared["top1_agreement"]


def test_a_word_that_one_rules_out():
    kept, out = rows([0, 0, 1]), rows([0, -INF, 1])
    expected = {"max_abs_diff": [INF], "mean_abs_diff": [INF], "bitwise_equal": [False], "top1_agreement": [True]}
    expect(compare_rows(kept, out), {**expected, "kl": [INF]})
    expect(compare_rows(out, kept), {**expected, "kl": [math.log((2 + math.e) / (1 + math.e))]})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [[NAN, 1, 2], [INF, 1, 2], [-INF, 1, 2], [INF, -INF, NAN], [-INF, -INF, -INF]])
def test_equal_bits_differ_by_nothing(dtype, row):
    """Beside a row that differs, so that none is looked at alone."""
    compared = compare_rows(rows(row, [1, 2, 3], dtype=dtype), rows(row, [1, 2, 7], dtype=dtype))
    assert compared["bitwise_equal"].tolist() == [True, False]
    assert [compared[name][0] for name in ("max_abs_diff", "mean_abs_diff", "kl")] == [0, 0, 0]
    assert compared["max_abs_diff"][1] == 4
    assert compared["top1_agreement"].tolist() == [True, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_on_one_side_is_nan(dtype, place):
    whole, broken = (
        rows([1, 2, 3], [4, 2, 0], [1, 2, 3], dtype=dtype),
        rows([1, 2, 3], [4, 2, 0], [1, 2, 9], dtype=dtype),
    )
    broken[1, place] = NAN
    for compared in (compare_rows(whole, broken), compare_rows(broken, whole)):
        assert compared["bitwise_equal"].tolist() == [True, False, False]
        np.testing.assert_array_equal(compared["max_abs_diff"], [0, NAN, 6])
        np.testing.assert_array_equal(compared["mean_abs_diff"], [0, NAN, 2])
        np.testing.assert_array_equal(np.isnan(compared["kl"]), [False, True, False])
        assert compared["top1_agreement"].tolist() == [True, False, True]


def test_nan_on_both_sides_agrees_only_if_all_bits_do():
    compared = compare_rows(rows([NAN, 1, 2]), rows([NAN, 1, 3]))
    assert not compared["bitwise_equal"]
    assert compared["max_abs_diff"] == 1
    assert compared["mean_abs_diff"] == pytest.approx(1 / 3)
    assert np.isnan(compared["kl"])
    assert not compared["top1_agreement"]


@pytest.mark.parametrize("row", [[INF, 0, 1], [-INF, -INF, -INF]])
def test_no_distribution_has_no_divergence(row):
    proper = rows([0, 1, 2])
    for compared in (compare_rows(rows(row), proper), compare_rows(proper, rows(row))):
        assert np.isnan(compared["kl"])
        assert compared["max_abs_diff"] == INF


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("position", [0, 1, 4])
def test_one_unit_in_the_last_place_is_a_difference(dtype, position):
    a = np.full((5, 3), 1.0, dtype)
    b = a.copy()
    b[position, 2] = step = np.nextafter(dtype(1), dtype(2))
    compared = compare_rows(a, b)
    assert np.flatnonzero(~compared["bitwise_equal"]).tolist() == [position]
    unit = float(ml_dtypes.finfo(dtype).eps)
    assert float(step) == 1 + unit
    assert compared["max_abs_diff"][position] == unit
    assert compared["mean_abs_diff"][position] == pytest.approx(unit / 3)


def test_minus_zero_is_another_number_without_distance():
    expect(
        compare_rows(rows([0, 1]), rows([-0.0, 1])),
        {"bitwise_equal": [False], "max_abs_diff": [0], "mean_abs_diff": [0], "kl": [0], "top1_agreement": [True]},
    )


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_another_dtype_is_never_bitwise_equal(dtype):
    """Zeros have the same bits in every dtype, up to their number; float16 and bfloat16 even have as many."""
    for other in set(DTYPES) - {dtype}:
        a, b = np.zeros((2, 3), dtype), np.zeros((2, 3), other)
        b[1, 1] = 0.5
        expect(
            compare_rows(a, b),
            {
                "bitwise_equal": [False, False],
                "max_abs_diff": [0, 0.5],
                "mean_abs_diff": [0, 0.5 / 3],
                "kl": [0, by_loops(a, b)["kl"][1]],
                "top1_agreement": [True, False],
            },
        )


def test_vocabularies_too_large_for_a_piece():
    """Each position is a piece of its own, and each is looked at."""
    a = np.zeros((3, logits._ELEMENTS + 1), np.float16)
    b = a.copy()
    a[:, 0] = 1
    b[:, 0] = [1, 2, 4]
    b[2, -1] = 8
    compared = compare_rows(a, b)
    assert compared["bitwise_equal"].tolist() == [True, False, False]
    assert compared["max_abs_diff"].tolist() == [0, 1, 8]
    assert compared["top1_agreement"].tolist() == [True, True, False]


def test_pieces_cover_every_position_in_order():
    """Some thousand positions a piece: three pieces, the last of them three positions long."""
    vocabulary = 1 << 11
    per_piece = logits._ELEMENTS // vocabulary
    count = 2 * per_piece + 3
    a = np.zeros((count, vocabulary), np.float16)
    a[np.arange(count), np.arange(count) % vocabulary] = 1
    b = a.copy()
    changed = [0, per_piece - 1, per_piece, 2 * per_piece, count - 1]
    b[changed, 7] = [2, 3, 4, 5, 6]
    compared = compare_rows(a, b)
    assert np.flatnonzero(~compared["bitwise_equal"]).tolist() == changed
    assert compared["max_abs_diff"][changed].tolist() == [2, 3, 4, 5, 6]
    assert len(compared["kl"]) == count
    nats = surprisal(a, np.arange(count) % vocabulary)
    np.testing.assert_allclose(nats, np.log(math.e + vocabulary - 1) - 1)


def test_memory_is_bounded():
    """Of eight pieces' logits, never so many are held as float64 as there are."""
    many = np.zeros((128, logits._ELEMENTS // 16), np.float16)
    tracemalloc.start()
    compare_rows(many, many)
    surprisal(many, np.zeros(128, int))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * many.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("positions", "vocabulary"), [(1, 1), (1, 5), (9, 1), (9, 300)])
def test_surprisal(dtype, positions, vocabulary):
    given, _ = drawn(positions, vocabulary, dtype)
    following = np.random.default_rng(1).integers(vocabulary, size=positions)
    nats = surprisal(given, following)
    assert nats.dtype == np.float64
    expected = [-log_softmax(row.astype(np.float64))[token] for row, token in zip(given, following, strict=True)]
    np.testing.assert_allclose(nats, expected, rtol=1e-9, atol=1e-12)


def test_surprisal_on_paper():
    """p = (3/4, 1/4), then extreme ones, then no distribution at all."""
    given = rows([math.log(3), 0], [math.log(3), 0], [1e4, -1e4], [0, -INF], [INF, 0], [NAN, 0], dtype=np.float64)
    np.testing.assert_allclose(
        surprisal(given, np.array([0, 1, 1, 1, 1, 1])), [math.log(4 / 3), math.log(4), 2e4, INF, NAN, NAN]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_distances(dtype):
    a = rows([1, -2, 0.0, NAN, INF, -INF, NAN, 1, INF], dtype=dtype)
    b = rows([3, 2, -0.0, NAN, INF, -INF, 1, NAN, -INF], dtype=dtype)
    distance = abs_diff(a, b)
    assert distance.dtype == np.float64
    np.testing.assert_array_equal(distance, [[2, 4, 0, 0, 0, 0, NAN, NAN, INF]])
    assert same_bits(a, b).tolist() == [[False, False, False, True, True, True, False, False, False]]


def test_nan_of_other_bits_is_another_nan():
    bits = np.array([[0x7FC00000, 0x7FC00001]], np.uint32)
    a, b = bits[:, :1].view(np.float32), bits[:, 1:].view(np.float32)
    assert not same_bits(a, b)
    assert np.isnan(abs_diff(a, b))


def test_distances_between_dtypes():
    distance = abs_diff(rows([1, INF, NAN], dtype=np.float16), rows([1.5, INF, NAN]))
    np.testing.assert_array_equal(distance, [[0.5, 0, NAN]])
    assert not same_bits(rows([1, INF, NAN], dtype=np.float16), rows([1, INF, NAN])).any()


def test_bits_of_arrays_that_are_not_contiguous():
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert same_bits(a.T, a.T.copy()).tolist() == np.ones((4, 3), bool).tolist()
    assert same_bits(a[:, ::2], a[:, 1::2]).tolist() == np.zeros((3, 2), bool).tolist()
