"""Load a model folder on whichever transformers release runs this, complete prompts, record what was computed."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from opensci_lib.capture import capture
from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import check_model_folder

DTYPES = ("auto", "float32", "bfloat16", "float16")
_PACKAGES = ("transformers", "torch", "tokenizers", "safetensors", "accelerate", "numpy", "opensci-lib")


@dataclass
class Generation:
    """The outcome of `generate`: what `run.json` holds.

    `completions[i]` continues `prompts[i]` (greedy, the prompt itself left out); `tokens[i]` are the
    prompt's tokens as text and `top_tokens[i]` the likeliest next ones with the captured logits; `settings`,
    `versions`, `seconds` and `peak_memory_bytes` (of the process, at the end of each phase) say how
    it came about; `weights` compares the loaded parameters with the checkpoint's, bit for bit.
    """

    prompts: list[str]
    completions: list[str]
    tokens: list[list[str]]
    top_tokens: list[list[dict[str, Any]]]
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_bytes: dict[str, int]
    weights: dict[str, Any]

    def save(self, path: Path | str, **more: Any) -> None:
        """Write everything, and `more`, as JSON."""
        partial = Path(f"{path}.partial")
        partial.write_text(json.dumps({**more, **asdict(self)}, indent=2) + "\n")
        partial.replace(path)


def check_release(tf_version: str | None) -> None:
    """Make sure that this process runs the transformers release that was asked for; None is any.

    Raises:
        OpensciError: when it is another one.

    """
    import transformers

    if tf_version not in (None, transformers.__version__):
        raise OpensciError(
            f"This kernel holds transformers {transformers.__version__}, not {tf_version}: choose the kernel "
            f"transformers-{tf_version}, or set tf_version to None."
        )


def dtype_argument() -> str:
    """Return what `from_pretrained` calls the dtype on this release: `torch_dtype` became `dtype` in 4.56."""
    from transformers import PretrainedConfig

    return "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"


def load(
    model_path: Path | str,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Return (model in evaluation mode, tokenizer) of a folder, through the folder's own code.

    Args:
        model_path: a folder that `transformers` can load with `trust_remote_code=True`.
        dtype: one of `DTYPES`; "auto" is what config.json names.
        device: a torch device, or "auto" for CUDA where there is one and the CPU elsewhere.
        attn_implementation: "sdpa" or "eager".

    Raises:
        OpensciError: when the folder is incomplete or does not load on this release.

    """
    folder = check_model_folder(model_path)
    if dtype not in DTYPES:
        raise OpensciError(f"Unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")

    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=True,
            attn_implementation=attn_implementation,
            **{dtype_argument(): dtype if dtype == "auto" else getattr(torch, dtype)},
        )
        model = model.to(device)
    except (ImportError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise OpensciError(
            f"{folder} does not load on transformers {transformers.__version__} "
            f"({type(error).__name__}: {line}): run `opensci hotfix --src_dir {folder}` and load the fixed folder."
        ) from error
    return model.eval(), tokenizer


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

    See `load` for the arguments that say what is loaded and how, and `opensci_lib.capture` for the
    file, what it holds (token ids, logits, cos, sin and inv_freq at every position), `reference` and
    `prefill_chunk_size`. A prompt that is the name of a .txt file stands for the text in it.
    """
    import torch

    prompts = [_read(prompt) for prompt in prompts]
    clock = time.perf_counter()
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {"start": _peak_memory()}

    def lap(phase: str) -> None:
        nonlocal clock
        clock, begun = time.perf_counter(), clock
        seconds[phase] = round(clock - begun, 3)
        memory[phase] = _peak_memory()

    import transformers  # noqa: F401  its import is a phase of its own: it takes longer than a small model

    lap("import")
    model, tokenizer = load(model_path, dtype, device, attn_implementation)
    lap("load")
    token_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    limit = model.config.max_position_embeddings
    for prompt, ids in zip(prompts, token_ids, strict=True):
        if not 0 < len(ids) <= limit:
            raise OpensciError(
                f"The prompt {prompt[:40]!r} has {len(ids)} tokens and the model takes 1 to {limit}: "
                "give another prompt."
            )
    top_tokens = []
    if capture_path is not None:
        captured = capture(model, prompts, token_ids, capture_path, reference, prefill_chunk_size)
        top_tokens = [_top_tokens(captured[f"{i}.next_logits"], tokenizer) for i in range(len(prompts))]
        lap("capture")
    completions = [_complete(model, tokenizer, ids, max_new_tokens) for ids in tqdm(token_ids, "generate")]
    lap("generate")
    weights = compare_with_checkpoint(model, model_path)
    lap("compare_weights")
    return Generation(
        prompts=prompts,
        completions=completions,
        tokens=[[tokenizer.decode([i]) for i in ids] for ids in token_ids],
        top_tokens=top_tokens,
        settings={
            "model_path": str(model_path),
            "max_new_tokens": max_new_tokens,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attn_implementation": attn_implementation,
            "prefill_chunk_size": prefill_chunk_size,
        },
        versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        machine={
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        seconds=seconds,
        peak_memory_bytes=memory,
        weights=weights,
    )


def compare_with_checkpoint(model: Any, model_path: Path | str) -> dict[str, Any]:
    """Say which tensors of the checkpoint the loaded model does not hold bit for bit.

    The checkpoint is cast to the model's dtype first, as loading does. Returns `tensors`, the
    number compared, and `differing`, the sorted names of those that differ or are missing.
    """
    import torch
    from safetensors import safe_open

    loaded = dict(model.state_dict(keep_vars=True))
    count, differing = 0, []
    for shard in sorted(Path(model_path).glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  a safetensors file is no dictionary
                count += 1
                held = loaded.get(name)
                if held is None or not torch.equal(held.cpu(), tensors.get_tensor(name).to(held.dtype)):
                    differing.append(name)
    return {"tensors": count, "differing": sorted(differing)}


def _read(prompt: str) -> str:
    """Return the text of a .txt file, or the prompt itself where it is none."""
    if not prompt.endswith(".txt"):
        return prompt
    try:
        return Path(prompt).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise OpensciError(
            f"There is no file {prompt}: give its path, or a prompt that does not end in .txt."
        ) from error


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


def _top_tokens(logits: np.ndarray, tokenizer: Any, count: int = 5) -> list[dict[str, Any]]:
    """Return the `count` likeliest tokens as text, with their logits (vocabulary), best first."""
    exact = logits.astype(np.float64)
    best = np.argsort(-exact, kind="stable")[:count]
    return [{"token": tokenizer.decode([int(i)]), "logit": float(exact[i])} for i in best]


def _peak_memory() -> int:
    """Return the most memory, in bytes, that this process ever held at once."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
