"""vLLM in the place of transformers: complete prompts with it, and keep what it tells of each position.

vLLM runs a model in layers of its own and tells no logits, so its capture (`capture`) holds of each prompt `i`,
beside `{i}.token_ids` and `{i}.surprisal`,

- `{i}.top_ids`, int64 (positions, `TOP`): the likeliest next tokens, best first
- `{i}.top_logprobs`, float64 (positions, `TOP`): their log-probabilities, nats

What else vLLM has to be told stands in `opensci_lib.kernels.vllm`.
"""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from opensci_lib.errors import OpensciError, without_home
from opensci_lib.kernels.vllm import package, share_processors
from opensci_lib.model_folder import check_model_folder, check_processes, read_config
from opensci_lib.runs.capture import Capture, CaptureWriter
from opensci_lib.runs.logits import log_softmax
from opensci_lib.runs.prompts import check_length, read_prompt
from opensci_lib.runs.record import Generation, Laps

#: How many of the likeliest next tokens are kept at each position.
TOP = 5
_PACKAGES = ("transformers", "torch", "tokenizers", "safetensors", "numpy", "opensci-lib")


def check_installed() -> None:
    """Raise OpensciError where vLLM is not."""
    if find_spec("vllm") is None:
        raise OpensciError("vLLM is not installed here: take the kernel of vLLM, or name its release (tf_version).")


def engine_options(folder: Path, dtype: str, tensor_parallel_size: int | None = None) -> dict[str, Any]:
    """Return what vLLM's `LLM` is told to run a model folder by so many processes, or one for each GPU to be seen.

    Raises:
        OpensciError: when the processes can't share the model's heads.

    """
    import torch

    config, processes = read_config(folder), tensor_parallel_size or torch.cuda.device_count() or 1
    check_processes(config, processes)
    if not torch.cuda.is_available():
        os.environ |= share_processors(processes)
    return {
        # vLLM's own "auto" makes float16 of float32
        "dtype": dtype if dtype != "auto" else config.get("dtype") or config.get("torch_dtype") or "float32",
        "trust_remote_code": True,
        "tensor_parallel_size": processes,
        "enforce_eager": not torch.cuda.is_available(),  # to compile takes minutes on processors
    }


@contextmanager
def engine(folder: Path, dtype: str, longest: int, **options: Any) -> Generator[Any]:
    """Yield vLLM's `LLM` of a folder for texts of up to so many tokens, and give back what it took.

    `options` are of `LLM` and go before `engine_options`.

    Raises:
        OpensciError: when vLLM can't run the folder.

    """
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    try:
        ours = engine_options(folder, dtype, options.get("tensor_parallel_size"))
        told = {"max_model_len": longest, "disable_log_stats": True, **ours, **options}
        llm = LLM(str(folder), **told)
    except (ImportError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise OpensciError(
            f"vLLM can't run {folder} ({type(error).__name__}: {said}): give a fixed folder, and memory for it."
        ) from error
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def generate(
    model_path: Path | str,
    prompts: list[str],
    capture_path: Path | str,
    max_new_tokens: int = 16,
    dtype: str = "auto",
    **options: Any,
) -> Generation:
    """Complete each prompt greedily by vLLM, and write what it tells of each position to `capture_path`.

    Args:
        model_path: a model folder.
        prompts: texts, or names of .txt files.
        capture_path: the file to write.
        max_new_tokens: of each completion.
        dtype: see `load`.
        options: see `engine`.

    Returns:
        The record of the run; its `top_tokens` have `logprob`, nats, where other runs have `logit`, and no weights
        were compared.

    Raises:
        OpensciError: when vLLM is not there, can't run the folder, or a prompt is too long for the model.

    """
    check_installed()
    folder = check_model_folder(model_path)
    prompts = [read_prompt(prompt) for prompt in prompts]
    laps = Laps()
    from transformers import AutoTokenizer
    from vllm import SamplingParams

    laps.end("import")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    token_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    new = max(1, max_new_tokens)  # it generates a token in any case
    for prompt, ids in zip(prompts, token_ids, strict=True):
        check_length(prompt, len(ids), read_config(folder)["max_position_embeddings"] - new)
    asked = SamplingParams(temperature=0, max_tokens=new, logprobs=TOP, prompt_logprobs=TOP)
    with engine(folder, dtype, max(map(len, token_ids)) + new, **options) as llm:
        laps.end("load")
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in token_ids], asked, use_tqdm=False)
        used = str(llm.llm_engine.model_config.dtype).removeprefix("torch.")
        device = llm.llm_engine.vllm_config.device_config.device_type
        laps.end("generate")
    likeliest = []
    with CaptureWriter(capture_path, prompts) as writer:
        for number, (ids, output) in enumerate(zip(token_ids, outputs, strict=True)):
            following = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
            known = [{token: told.logprob for token, told in position.items()} for position in following]
            surprisal = np.array([-told[token] for told, token in zip(known, ids[1:], strict=False)], float)
            top_ids, top_logprobs = _best(known)
            writer.add(f"{number}.token_ids", np.asarray(ids, np.int64))
            writer.add(f"{number}.surprisal", surprisal)
            writer.add(f"{number}.top_ids", top_ids)
            writer.add(f"{number}.top_logprobs", top_logprobs)
            best = zip(top_ids[-1].tolist(), top_logprobs[-1].tolist(), strict=True)
            likeliest.append([{"token": tokenizer.decode([token]), "logprob": logprob} for token, logprob in best])
    laps.end("capture")
    return Generation(
        prompts=prompts,
        completions=[output.outputs[0].text if max_new_tokens else "" for output in outputs],
        tokens=[[tokenizer.decode([i]) for i in ids] for ids in token_ids],
        top_tokens=likeliest,
        settings={
            "model_path": without_home(str(model_path)),
            "max_new_tokens": max_new_tokens,
            "dtype": used,
            "device": device,
            "attn_implementation": "vLLM's",
            "prefill_chunk_size": None,
        },
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in (*_PACKAGES, package())},
        },
        machine={
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": _threads(),
            "peak_memory_of": laps.peak_memory_of,
        },
        seconds=laps.seconds,
        peak_memory_bytes=laps.peak_memory_bytes,
        weights={"tensors": 0, "differing": []},
    )


def answers(capture: Capture, prompt: int) -> dict[str, np.ndarray]:
    """Return `surprisal`, `top_ids` and `top_logprobs` of a captured prompt, from its logits where it has these.

    Of equal log-probabilities that of the smaller id comes first.
    """
    kept = {name: f"{prompt}.{name}" for name in ("surprisal", "top_ids", "top_logprobs")}
    if kept["top_ids"] in capture:
        return {name: capture[key] for name, key in kept.items()}
    ids, logprobs = [], []
    for row in capture[f"{prompt}.logits"]:
        exact = log_softmax(row[None].astype(np.float64))[0]
        best = np.argsort(-exact, kind="stable")[:TOP]
        ids.append(best)
        logprobs.append(exact[best])
    return {"surprisal": capture[kept["surprisal"]], "top_ids": np.stack(ids), "top_logprobs": np.stack(logprobs)}


def _best(known: Iterable[dict[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and log-probabilities of the likeliest tokens of each position, best first."""
    ranked = [sorted(told.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP] for told in known]
    return (
        np.array([[token for token, _ in best] for best in ranked], np.int64),
        np.array([[logprob for _, logprob in best] for best in ranked], np.float64),
    )


def _threads() -> int:
    import torch

    return torch.get_num_threads()
