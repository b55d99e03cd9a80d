"""Numbers about rows of logits, a row a position: how far two differ, and how surprising the next token was."""

from __future__ import annotations

import numpy as np

_ELEMENTS = 1 << 22  # logits held at once as float64: bounds memory, whatever the vocabulary and the prompt's length


def compare_rows(reference: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    """Compare logits of the same positions, both (positions, vocabulary) in the dtype as computed.

    Returns, each (positions,): `bitwise_equal`, bool; `max_abs_diff` and `mean_abs_diff` over the vocabulary,
    float64; `kl`, the Kullback-Leibler divergence of the next-token distributions from reference to candidate,
    float64, nats; and `top1_agreement`, bool.
    """
    return _by_pieces(_compare, reference, candidate)


def surprisal(logits: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return -log p of the token that follows each position, float64, nats.

    `logits` is (positions, vocabulary); `following` are token ids, (positions,).
    """
    return _by_pieces(_surprisal, logits, following)["nats"]


def _by_pieces(function, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    rows = max(1, _ELEMENTS // first.shape[1])
    pieces = [function(first[i : i + rows], second[i : i + rows]) for i in range(0, len(first), rows)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _compare(reference: np.ndarray, candidate: np.ndarray) -> dict[str, np.ndarray]:
    equal = (bits(reference) == bits(candidate)).all(axis=1)
    a = reference.astype(np.float64)
    if equal.all() and np.isfinite(a).all():  # the usual case, without the exponentials
        zero = np.zeros(len(a))
        return {
            "bitwise_equal": equal,
            "max_abs_diff": zero,
            "mean_abs_diff": zero,
            "kl": zero,
            "top1_agreement": equal,
        }
    b = candidate.astype(np.float64)
    difference = np.abs(a - b)
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    return {
        "bitwise_equal": equal,
        "max_abs_diff": difference.max(axis=1),
        "mean_abs_diff": difference.mean(axis=1),
        "kl": (np.exp(log_p) * (log_p - log_q)).sum(axis=1),
        "top1_agreement": a.argmax(axis=1) == b.argmax(axis=1),
    }


def _surprisal(logits: np.ndarray, following: np.ndarray) -> dict[str, np.ndarray]:
    chosen = _log_softmax(logits.astype(np.float64))[np.arange(len(following)), following]
    return {"nats": -chosen}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def bits(array: np.ndarray) -> np.ndarray:
    """Return the bits as integers, so that NaN equals itself and 0.0 differs from -0.0."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
