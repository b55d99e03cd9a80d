"""How far vLLM is from transformers on a model of their own code, beside which our distance can be judged."""

from __future__ import annotations

from pathlib import Path

from opensci_lib.errors import OpensciError
from opensci_lib.generate import generate
from opensci_lib.runs import vllm
from opensci_lib.runs.capture import Capture, CaptureWriter
from opensci_lib.runs.loading import load
from opensci_lib.scratch import scratch

#: Beside a run by vLLM: what the native model answers by each engine, in captures as vLLM's are.
BY_TRANSFORMERS, BY_VLLM = "native-transformers.safetensors", "native-vllm.safetensors"


def measure(
    model_path: Path | str, prompts: list[str], output_dir: Path | str, dtype: str = "auto", device: str = "auto"
) -> bool:
    """Put prompts to a native model with a folder's weights, less biases, by both engines of this kernel.

    Writes `BY_TRANSFORMERS` and `BY_VLLM` to `output_dir`, or neither, and says which: whether there is such a model.

    Args:
        model_path: a model folder.
        prompts: texts, or names of .txt files.
        output_dir: an existing folder.
        dtype: see `load`.
        device: where transformers computes; see `load`.

    """
    from opensci_lib.compat.native import without_biases

    output = Path(output_dir)
    places = [output / BY_TRANSFORMERS, output / BY_VLLM]
    for place in places:
        place.unlink(missing_ok=True)
    with scratch(output) as work:
        model, tokenizer = load(model_path, dtype)
        try:
            native = without_biases(model).to(model.dtype)
        except (AttributeError, RuntimeError) as error:
            print(f"No native model has these weights, so there is no yardstick ({type(error).__name__}).")
            return False
        for part in (native, tokenizer):
            part.save_pretrained(work / "native")
        del model, native
        try:
            generate(work / "native", prompts, 0, dtype, device, capture_path=work / "whole")
            vllm.generate(work / "native", prompts, work / "answers", 0, dtype)
        except OpensciError as error:
            print(f"The native model does not run, so there is no yardstick. {error}")
            return False
        whole = Capture(work / "whole")
        with CaptureWriter(places[0], whole.prompts) as writer:
            for prompt in range(len(whole.prompts)):
                writer.add(f"{prompt}.token_ids", whole[f"{prompt}.token_ids"])
                for name, values in vllm.answers(whole, prompt).items():
                    writer.add(f"{prompt}.{name}", values)
        (work / "answers").replace(places[1])
    return True
