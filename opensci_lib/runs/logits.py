"""Numbers about rows of logits, a row a position: how far two differ, and how surprising the next token was."""

from __future__ import annotations

import numpy as np

#: Positions whose logits are computed, compared and held at once.
ROWS = 1024
#: The keys of `compare_rows`.
COMPARED = ("bitwise_equal", "max_abs_diff", "mean_abs_diff", "kl", "top1_agreement")

_ELEMENTS = 1 << 22  # logits held at once as float64: bounds memory, whatever the vocabulary and the prompt's length


def compare_rows(reference: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    """Compare logits of the same positions, both (positions, vocabulary) in the dtype as computed.

    Returns, each (positions,):

    - `bitwise_equal`, bool: whether all bits are the same. Of another dtype none are.
    - `max_abs_diff` and `mean_abs_diff` of `abs_diff` over the vocabulary, float64.
    - `kl`, float64, nats: the Kullback-Leibler divergence of the next-token distributions from reference to
      candidate. Infinite where the candidate rules out what the reference does not; NaN where one of the two is no
      distribution (it holds NaN or +inf, or all of it is -inf).
    - `top1_agreement`, bool: whether the largest logit, the first of several, is the same token's. A row with NaN on
      either side has no largest logit and does not agree.

    A row whose bits are the same differs by 0 in every respect and agrees, whatever it holds.
    """
    return _by_pieces(_compare, reference, candidate)


def joined(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return what `compare_rows` says of all positions from what it says of some after the other."""
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in COMPARED}


def surprisal(logits: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return -log p of the token that follows each position, float64, nats.

    `logits` is (positions, vocabulary); `following` are token ids, (positions,).
    """
    return _by_pieces(_surprisal, logits, following)["nats"]


def abs_diff(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return |reference - candidate| of two arrays of one shape, float64.

    Exactly 0 where values or bits are the same (inf and inf, NaN and the same NaN), else NaN where one is NaN.
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where((a == b) | same_bits(reference, candidate), 0.0, np.abs(a - b))


def same_bits(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Say of each element whether its bits are the same: NaN equals itself, 0.0 differs from -0.0.

    Takes two arrays of one shape and returns bool of that shape, all False where the dtypes differ.
    """
    if reference.dtype != candidate.dtype:
        return np.zeros(reference.shape, bool)
    return _bits(reference) == _bits(candidate)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log-probabilities, nats, of rows of float64 logits, (positions, vocabulary)."""
    with np.errstate(invalid="ignore"):  # of inf - inf: a row that is no distribution becomes NaN
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _by_pieces(function, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    rows = max(1, _ELEMENTS // first.shape[1])
    pieces = [function(first[i : i + rows], second[i : i + rows]) for i in range(0, len(first), rows)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _compare(reference: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    equal = np.all(same_bits(reference, candidate), axis=1)
    compared = {
        "bitwise_equal": equal,
        "max_abs_diff": np.zeros(len(equal)),
        "mean_abs_diff": np.zeros(len(equal)),
        "kl": np.zeros(len(equal)),
        "top1_agreement": equal.copy(),
    }
    # Usually no row is left to it, and no exponential is computed.
    for name, values in _compare_differing(reference[~equal], candidate[~equal]).items():
        compared[name][~equal] = values
    return compared


def _compare_differing(reference: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    difference = abs_diff(reference, candidate)
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    return {
        "max_abs_diff": difference.max(axis=1),
        "mean_abs_diff": difference.mean(axis=1),
        "kl": _kl(log_softmax(a), log_softmax(b)),
        "top1_agreement": (a.argmax(axis=1) == b.argmax(axis=1)) & ~(np.isnan(a) | np.isnan(b)).any(axis=1),
    }


def _surprisal(logits: np.ndarray, following: np.ndarray) -> dict[str, np.ndarray]:
    chosen = log_softmax(logits.astype(np.float64))[np.arange(len(following)), following]
    return {"nats": -chosen}


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # of -inf - -inf, where p is 0 and so is its part in the sum
        return np.where(p == 0, 0.0, p * (log_p - log_q)).sum(axis=1)


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
