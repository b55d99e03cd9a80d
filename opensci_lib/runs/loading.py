"""Load a model folder on whichever transformers release runs this, and check what was loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import check_model_folder, check_processes, read_config
from opensci_lib.runs.tensors import bits

DTYPES = ("auto", "float32", "bfloat16", "float16")


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


def poison(sizes: Iterable[int] = ()) -> None:
    """Leave numbers like 1e12 in freed memory, so that what is read uninitialised can't look right by luck.

    `sizes` are those of tensors to come, in numbers, beside the usual ones of rotary buffers.
    """
    import torch

    usual = [size for size in (4, 8, 16, 32, 64, 128, 256, 512) for _ in range(64)]
    held = [torch.full((size,), 1e12) for size in (*usual, *sizes)]
    del held


def load(
    model_path: Path | str,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
    tp_plan: str | None = None,
) -> tuple[Any, Any]:
    """Return (model in evaluation mode, tokenizer) of a folder, through its own code, into memory that holds garbage.

    Args:
        model_path: a folder that `transformers` can load with `trust_remote_code=True`.
        dtype: one of `DTYPES`; "auto" is what config.json names.
        device: a torch device, or "auto" for CUDA where there is one and the CPU elsewhere.
        attn_implementation: "sdpa" or "eager".
        tp_plan: "auto" for a part of the model, where `torchrun` has started several processes that share it.

    Raises:
        OpensciError: when the folder is incomplete or does not load on this release, when the processes can't share
            the model, or when the device can't take it.

    """
    folder = check_model_folder(model_path)
    if dtype not in DTYPES:
        raise OpensciError(f"Unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")

    if tp_plan is not None:
        check_processes(read_config(folder), int(os.environ.get("WORLD_SIZE", "1")))

    import torch
    import transformers
    from accelerate.utils.memory import should_reduce_batch_size
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        poison()
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=True,
            attn_implementation=attn_implementation,
            **{dtype_argument(): dtype if dtype == "auto" else getattr(torch, dtype)},
            **({} if tp_plan is None else {"tp_plan": tp_plan}),
        )
    except (ImportError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        if should_reduce_batch_size(error):  # memory ran out, which no rewrite of the folder would mend
            raise OpensciError(f"Memory does not suffice to load {folder}: use a machine that has more.") from error
        raise OpensciError(
            f"{folder} does not load on transformers {transformers.__version__} "
            f"({type(error).__name__}: {_first_line(error)}): run `opensci hotfix --src_dir {folder}` "
            "and load the fixed folder."
        ) from error
    if empty := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise OpensciError(
            f"transformers {transformers.__version__} leaves {empty[0]} of {folder} without values: "
            f"run `opensci hotfix --src_dir {folder}` and load the fixed folder."
        )
    try:
        return model.to(device).eval(), tokenizer
    except (AssertionError, RuntimeError) as error:  # which of them a wrong device raises depends on torch's build
        raise OpensciError(
            f"The model can't be put on {device} ({_first_line(error)}): choose another device, or a smaller dtype."
        ) from error


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
                if held is None or not torch.equal(bits(held.cpu()), bits(tensors.get_tensor(name).to(held.dtype))):
                    differing.append(name)
    return {"tensors": count, "differing": sorted(differing)}


def _first_line(error: Exception) -> str:
    """Return the first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
