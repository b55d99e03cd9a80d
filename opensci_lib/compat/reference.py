"""What the unmodified folder computes under 4.48.0: `python -m opensci_lib.compat.reference FOLDER FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from filelock import FileLock

from opensci_lib import kernels, project
from opensci_lib.errors import OpensciError

RELEASE = "4.48.0"
#: How the logits of the reference were computed: (dtype, attention) pairs.
SETTINGS = [(dtype, attention) for dtype in ("float32", "bfloat16") for attention in ("sdpa", "eager")]


def reference(original: Path | str, path: Path | str) -> Path:
    """Return `path`, made in the kernel of 4.48.0 from the unmodified folder unless it is there.

    It is a safetensors file: the logits of each of `case.TEXTS` in all `SETTINGS`, those of the padded
    batches, and, as UTF-8, what the tokenizer makes of `awkward.strings()`.
    """
    path = Path(path)
    with FileLock(project.ENVIRONMENTS / f".{kernels.kernel_name(RELEASE)}.compat.lock"):
        if not path.exists():
            done = kernels.run(RELEASE, "-m", "opensci_lib.compat.reference", original, path, capture_output=True)
            if done.returncode:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                raise OpensciError(f"{original} does not run on {RELEASE}, the reference: {' '.join(last)}")
    return path


def compute(original: Path, path: Path) -> None:
    """Write the reference; to be called under 4.48.0."""
    from safetensors.torch import save_file

    from opensci_lib.compat.awkward import encoded
    from opensci_lib.compat.case import Case, logits
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
    partial = path.with_name(f".{path.name}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)


if __name__ == "__main__":
    from opensci_lib.compat.case import surroundings

    with surroundings():
        compute(Path(sys.argv[1]), Path(sys.argv[2]))
