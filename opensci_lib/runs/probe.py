"""Run a model folder under another release than this process's own, in its kernel environment."""

from __future__ import annotations

from pathlib import Path

from opensci_lib import kernels
from opensci_lib.errors import OpensciError

_CODE = """
import sys
import transformers
from opensci_lib import shim
from opensci_lib.generate import generate
from opensci_lib.runs.capture import Capture

folder, output, prompt, variant, max_new_tokens = sys.argv[1:]
if variant == "original" and transformers.__version__.startswith("4."):
    shim.apply()
run = generate(folder, [prompt], int(max_new_tokens), capture_path=f"{output}/capture.safetensors")
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
best = Capture(f"{output}/capture.safetensors")["0.logits"].argmax(axis=1).tolist()
run.save(f"{output}/run.json", variant=variant, likeliest=[tokenizer.decode([word]) for word in best])
"""


def probe(
    folder: Path | str,
    release: str,
    prompt: str,
    output: Path,
    variant: str = "as it is",
    max_new_tokens: int = 1,
) -> str | None:
    """Complete a prompt under a release and write what a run leaves, `capture.safetensors` and `run.json`.

    The record holds besides, as `likeliest`, the text of the likeliest next token at each position.

    Args:
        folder: a model folder. It is run exactly as it is, but that "original" gets the shim on 4.x.
        release: whose environment is used, and built if need be.
        prompt: the text.
        output: an existing folder for what the run leaves.
        variant: what the record calls the folder.
        max_new_tokens: of the completion.

    Returns:
        None, or the last line of what it said when it failed.

    """
    arguments = (folder, output, prompt, variant, max_new_tokens)
    result = kernels.run(release, "-c", _CODE, *arguments, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    return said[-1].removeprefix(f"{OpensciError.__module__}.{OpensciError.__name__}: ")
