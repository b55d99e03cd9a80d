"""The worker of `engines.py`, run by vLLM's environment: time one engine at one task, its start told apart.

Prints a line of JSON: a list of `{"folder", "start", "seconds", …}`, one for each folder and round.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

BATCH = 8
PROMPT = 32  # tokens


def prompts(count: int) -> list[list[int]]:
    """Return prompts as token ids, of one length, so that neither engine has to pad."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(1, 1000, (count, PROMPT), generator=draw).tolist()


def by_vllm(count: int, new: int, rounds: int, processes: int, folders: list[str]) -> list[dict[str, Any]]:
    """Generate with vLLM: the folders in turn, a new engine each time."""
    from vllm import SamplingParams

    from opensci_lib.runs import vllm

    asked = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    few = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    given: Any = [{"prompt_token_ids": ids} for ids in prompts(count)]
    found = []
    for folder in folders * rounds:
        begun = time.perf_counter()
        with vllm.engine(Path(folder), "auto", PROMPT + new, tensor_parallel_size=processes) as llm:
            start = time.perf_counter() - begun
            llm.generate(given[:BATCH], few, use_tqdm=False)  # warms up
            begun = time.perf_counter()
            outputs = llm.generate(given, asked, use_tqdm=False)
            seconds = time.perf_counter() - begun
            held = llm.apply_model(weight_bytes)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        found.append({"folder": folder, "start": start, "seconds": seconds, "tokens": tokens, "weights": held})
    return found


def weight_bytes(model: Any) -> int:
    """Return what this process holds of a model's weights, in bytes."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def by_transformers(count: int, new: int, rounds: int, folders: list[str]) -> list[dict[str, Any]]:
    """Generate with transformers, a batch at a time."""
    from opensci_lib.runs.loading import load

    ids = torch.tensor(prompts(count))
    found = []
    for folder in folders * rounds:
        begun = time.perf_counter()
        model, _ = load(folder)
        start = time.perf_counter() - begun

        def complete(batch: torch.Tensor, tokens: int, model: Any = model) -> int:
            options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": 0}
            return model.generate(batch, attention_mask=torch.ones_like(batch), **options)[:, PROMPT:].numel()

        with torch.inference_mode():
            complete(ids[:BATCH], 2)  # warms up
            begun = time.perf_counter()
            tokens = sum(complete(batch, new) for batch in ids.split(BATCH))
        found.append({"folder": folder, "start": start, "seconds": time.perf_counter() - begun, "tokens": tokens})
    return found


def evaluated(backend: str, limit: int, folder: str) -> list[dict[str, Any]]:
    """Score the default tasks."""
    from opensci_lib.evaluation import evaluate
    from opensci_lib.evaluation.harness import Harness

    class Timed(Harness):
        start = 0.0

        def model(self, *arguments: Any) -> Any:
            begun = time.perf_counter()
            model = super().model(*arguments)
            self.start = time.perf_counter() - begun
            return model

    harness = Timed()
    with tempfile.TemporaryDirectory() as output:
        begun = time.perf_counter()
        evaluate(folder, output, limit=limit or None, batch_size=BATCH, backend=backend, harness=harness)
        seconds = time.perf_counter() - begun
    return [{"folder": folder, "start": harness.start, "seconds": seconds - harness.start}]


def main() -> None:
    """Do what the first argument, in JSON, says with the folders behind it."""
    asked, folders = json.loads(sys.argv[1]), sys.argv[2:]
    sizes = asked["prompts"], asked["tokens"], asked["rounds"]
    ways = {
        "vllm": lambda: by_vllm(*sizes, asked["processes"], folders),
        "hf": lambda: by_transformers(*sizes, folders),
        "evaluate": lambda: evaluated(asked["backend"], asked["limit"], *folders),
    }
    print("\n" + json.dumps(ways[asked["way"]]()))


if __name__ == "__main__":
    main()
