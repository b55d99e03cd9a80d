"""What the unmodified folder computes under 4.48.0: `python -m opensci_lib.compat.reference FOLDER FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from filelock import FileLock
from safetensors import safe_open

from opensci_lib import kernels, project
from opensci_lib.errors import OpensciError

RELEASE = "4.48.0"
_CHECKS = Path(__file__).parent
#: How the logits of the reference were computed: (dtype, attention) pairs.
SETTINGS = [(dtype, attention) for dtype in ("float32", "bfloat16") for attention in ("sdpa", "eager")]


def reference(original: Path | str, path: Path | str) -> Path:
    """Return `path`, made in the kernel of 4.48.0 from the unmodified folder unless these checks made it before.

    It is a safetensors file: in all `SETTINGS` the logits of each of `case.TEXTS`, those of the padded batches, and
    what the model gives when it is asked for attention weights with each of `attention.CACHES`; and, as UTF-8, what
    the tokenizer makes of `awkward.strings()`.
    """
    path = Path(path)
    with FileLock(project.ENVIRONMENTS / f".{kernels.kernel_name(RELEASE)}.compat.lock"):
        if not is_current(path):
            done = kernels.run(RELEASE, "-m", "opensci_lib.compat.reference", original, path, capture_output=True)
            if done.returncode:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                raise OpensciError(f"{original} does not run on {RELEASE}, the reference: {' '.join(last)}")
    return path


def is_current(path: Path) -> bool:
    """Say whether a reference is there and was made by the checks as they are: it lacks what they ask for later."""
    if not path.exists():
        return False
    with safe_open(path, framework="np") as tensors:
        return (tensors.metadata() or {}).get("checks") == project.code_digest(_CHECKS)


def compute(original: Path, path: Path) -> None:
    """Write the reference; to be called under 4.48.0."""
    from safetensors.torch import save_file

    from opensci_lib.compat.awkward import encoded
    from opensci_lib.compat.case import Case, logits
    from opensci_lib.compat.features.attention import CACHES, attended
    from opensci_lib.compat.features.logits import padded

    case = Case(original, path.with_name("unused"))
    tensors = {"tokenizer": encoded(case.tokenizer)}
    for dtype, attention in SETTINGS:
        model = case.load(dtype=dtype, attn_implementation=attention)
        for number, ids in enumerate(case.ids):
            tensors[f"{dtype} {attention} {number}"] = logits(model, ids)
        for side in ("left", "right"):
            batch, mask, positions = padded(case.ids, side)
            tensors[f"{dtype} {attention} {side}"] = logits(
                model, batch, attention_mask=mask, position_ids=positions
            )[mask.bool()]
        for cache in CACHES:
            for name, tensor in attended(model, case.ids, cache).items():
                tensors[f"{dtype} {attention} {cache} cache {name}"] = tensor
    partial = path.with_name(f".{path.name}")
    made_by = {"checks": project.code_digest(_CHECKS)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, made_by)
    partial.replace(path)


if __name__ == "__main__":
    from opensci_lib.compat.case import surroundings

    with surroundings():
        compute(Path(sys.argv[1]), Path(sys.argv[2]))
