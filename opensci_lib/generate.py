"""Complete prompts with a model folder on whichever transformers release runs this, and record what was computed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from opensci_lib.errors import without_home
from opensci_lib.runs.loading import compare_with_checkpoint, load
from opensci_lib.runs.observe import observe
from opensci_lib.runs.prompts import check_length, read_prompt
from opensci_lib.runs.record import Generation, Laps, top_tokens

_PACKAGES = ("transformers", "torch", "tokenizers", "safetensors", "accelerate", "numpy", "opensci-lib")


def generate(
    model_path: Path | str,
    prompts: list[str],
    max_new_tokens: int = 16,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
    capture_path: Path | str | None = None,
    reference: Path | str | None = None,
    prefill_chunk_size: int | None = None,
) -> Generation:
    """Complete each prompt greedily and, with `capture_path`, capture a forward pass over each prompt.

    See `load` for the arguments that say what is loaded and how, `capture` for what the file holds (token ids,
    logits, cos, sin and inv_freq at every position), and `observe` for `reference` and `prefill_chunk_size`.
    A prompt that is the name of a .txt file stands for the text in it.
    """
    import torch

    if (
        reference is not None
        and capture_path is not None
        and Path(reference).absolute() == Path(capture_path).absolute()
    ):
        reference = None  # this is the reference itself
    prompts = [read_prompt(prompt) for prompt in prompts]
    laps = Laps()

    import transformers  # noqa: F401  its import is a phase of its own: it takes longer than a small model

    laps.end("import")
    model, tokenizer = load(model_path, dtype, device, attn_implementation)
    laps.end("load")
    token_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    for prompt, ids in zip(prompts, token_ids, strict=True):
        check_length(prompt, len(ids), model.config.max_position_embeddings)
    likeliest = []
    if capture_path is not None:
        captured = observe(model, prompts, token_ids, capture_path, reference, prefill_chunk_size)
        likeliest = [top_tokens(captured[f"{i}.next_logits"], tokenizer) for i in range(len(prompts))]
        laps.end("capture")
    completions = [_complete(model, tokenizer, ids, max_new_tokens) for ids in tqdm(token_ids, "generate")]
    laps.end("generate")
    weights = compare_with_checkpoint(model, model_path)
    laps.end("compare_weights")
    return Generation(
        prompts=prompts,
        completions=completions,
        tokens=[[tokenizer.decode([i]) for i in ids] for ids in token_ids],
        top_tokens=likeliest,
        settings={
            "model_path": without_home(str(model_path)),
            "max_new_tokens": max_new_tokens,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attn_implementation": model.config._attn_implementation,
            "prefill_chunk_size": prefill_chunk_size,
        },
        versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        machine={
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "peak_memory_of": laps.peak_memory_of,
        },
        seconds=laps.seconds,
        peak_memory_bytes=laps.peak_memory_bytes,
        weights=weights,
    )


def _complete(model: Any, tokenizer: Any, ids: list[int], max_new_tokens: int) -> str:
    """Return the greedy continuation of `ids`, without `ids`; of no tokens, nothing is computed."""
    import torch

    if not max_new_tokens:
        return ""

    inputs = torch.tensor([ids], device=model.device)
    # The id that pads finished rows of a batch: named so that generate() does not warn about its choice.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    output = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
    )
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
