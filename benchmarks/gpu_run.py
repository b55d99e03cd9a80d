"""The worker of `gpu.py`, run by a kernel environment: bits, speed and kernels of one model folder on one device."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from opensci_lib.runs.loading import load
from opensci_lib.runs.tensors import fingerprints

BATCH, NEW_TOKENS = 8, 32


def uses(model: Any, positions: int) -> dict[str, tuple[int, Callable[[], torch.Tensor]]]:
    """Return by name how many tokens a use computes, and the use, which gives logits, (tokens, vocabulary)."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 1000, (BATCH, positions), generator=draw).to(model.device)
    # rows of eight lengths, the padding on the left
    mask = (torch.arange(positions)[None] >= torch.arange(BATCH)[:, None] * positions // (2 * BATCH)).long()
    mask = mask.to(model.device)
    one, places = ids[:1], (mask.cumsum(1) - 1).clamp(min=0)

    def batch() -> torch.Tensor:
        return model(ids, attention_mask=mask, position_ids=places, use_cache=False).logits[mask.bool()]

    def decode() -> torch.Tensor:
        found = [model(one, use_cache=True, logits_to_keep=1)]
        for _ in range(NEW_TOKENS):
            following = found[-1].logits[:, -1:].argmax(-1)
            found.append(model(following, past_key_values=found[-1].past_key_values, use_cache=True))
        return torch.cat([output.logits[0] for output in found])

    return {
        "prompt": (positions, lambda: model(one, use_cache=False).logits[0]),
        "left-padded batch": (int(mask.sum()), batch),
        "prompt and decoding": (positions + NEW_TOKENS, decode),
    }


def kernels_of(use: Callable[[], torch.Tensor], device: str) -> list[str]:
    """Return the names of the kernels that ran; on a CPU, of the operators."""
    with torch.profiler.profile() as profile:
        use()
        synchronize(device)
    kind = torch.autograd.DeviceType.CUDA if device.startswith("cuda") else torch.autograd.DeviceType.CPU
    return sorted({event.name for event in profile.events() if event.device_type == kind})


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@torch.inference_mode()
def main(folder: str, device: str, dtype: str, positions: str) -> None:
    """Print what was measured as JSON, a line of its own."""
    model, _ = load(folder, dtype, device)
    found = {}
    for name, (tokens, use) in uses(model, int(positions)).items():
        logits = use()  # warms up
        synchronize(device)
        begun = time.perf_counter()
        use()
        synchronize(device)
        found[name] = {
            "bits": hashlib.sha256(fingerprints(logits).tobytes()).hexdigest()[:16],
            "tokens/s": round(tokens / (time.perf_counter() - begun), 1),
            "kernels": kernels_of(use, device),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
