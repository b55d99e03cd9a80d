"""One process of `throughput.py`, under one release: measure a decoder, or write a native twin of one.

python decoder.py measure FOLDER     prints {"prefill": tokens/s, "decode": tokens/s, "peak_memory": bytes, …}
python decoder.py twin FOLDER DST    writes a native Qwen3 with the weights of FOLDER, bfloat16, to DST
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from opensci_lib.runs.loading import dtype_argument

PROMPT, NEW = 512, 64  # tokens
REPETITIONS = 3


def load(folder: str) -> Any:
    """Load a decoder in float32, which every processor computes at full speed."""
    options = {dtype_argument(): torch.float32, "trust_remote_code": True, "attn_implementation": "sdpa"}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def measure(folder: str) -> None:
    """Print how quickly a prompt is read and continued, and what that took of memory."""
    model = load(folder)
    ids = torch.randint(1, 1000, (1, PROMPT), generator=torch.Generator().manual_seed(0))

    def prefill() -> Any:
        return model(ids, logits_to_keep=1)

    def complete(count: int) -> Any:
        lengths = {"min_new_tokens": count, "max_new_tokens": count}
        return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **lengths)

    prefills, decodes = [], []
    with torch.inference_mode():
        tokens = complete(8)[0, PROMPT:].tolist()  # warms up too
        for _ in range(REPETITIONS):
            prefills.append(PROMPT / seconds(prefill))
            begun = seconds(complete, 1)
            decodes.append(NEW / (seconds(complete, 1 + NEW) - begun))
    result = {"prefill": statistics.median(prefills), "decode": statistics.median(decodes), "tokens": tokens}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**result, "peak_memory": peak if sys.platform == "darwin" else peak * 1024}))


def seconds(action: Callable[..., object], *arguments: Any) -> float:
    """Return how long an action takes."""
    begun = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - begun


def twin(folder: str, dst: str) -> None:
    """Write the native model."""
    from opensci_lib.compat.native import qwen3_of

    qwen3_of(load(folder)).to(torch.bfloat16).save_pretrained(dst)


if __name__ == "__main__":
    {"measure": measure, "twin": twin}[sys.argv[1]](*sys.argv[2:])
