"""The bits of torch tensors: as integers, as numpy arrays, and hashed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    import torch

# Numbers hashed at once. Larger temporaries (eight bytes a number, twice) fragment the heap: measured, gigabytes.
_ELEMENTS = 1 << 16


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bits as signed integers of the same width, so that NaN equals itself and 0.0 differs from -0.0."""
    import torch

    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(widths[tensor.element_size()])


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return the same bits as a numpy array on the CPU; numpy has no bfloat16 of its own."""
    import torch

    if tensor.dtype is torch.bfloat16:
        return bits(tensor).cpu().numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().cpu().contiguous().numpy()


def fingerprints(output: torch.Tensor) -> np.ndarray:
    """Hash each position's bits: (positions, features) in any float dtype to int64 (positions,).

    The sum over features of the bits, as a signed integer of the dtype's width, times a fixed odd number
    (`odd_factors`), modulo 2**64. Integer sums have no rounding and no order, so equal bits give equal hashes on any
    machine and number of threads.
    """
    import torch

    factors = torch.from_numpy(odd_factors(output.shape[1])).to(output.device)
    rows = max(1, _ELEMENTS // output.shape[1])
    pieces = [(bits(piece).to(torch.int64) * factors).sum(dim=1) for piece in output.split(rows)]
    return torch.cat(pieces).cpu().numpy()


def odd_factors(count: int) -> np.ndarray:
    """Return `count` well-mixed odd int64 numbers: SplitMix64 (Steele et al., 2014) from 0, the lowest bit set."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)
