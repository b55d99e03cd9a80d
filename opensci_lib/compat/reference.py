"""What the unmodified folder computes under its reference: `python -m opensci_lib.compat.reference FOLDER FILE`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open

from opensci_lib import project
from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import follow_umask
from opensci_lib.runs import trace
from opensci_lib.runs.reference import reference_of
from opensci_lib.scratch import scratch

_CHECKS = Path(__file__).parent
#: How the logits of the reference were computed: (dtype, attention) pairs.
SETTINGS = [(dtype, attention) for dtype in ("float32", "bfloat16") for attention in ("sdpa", "eager")]


def _checks() -> str:
    """Return a hash of the code that makes a reference: the checks, and what writes a trace."""
    return project.code_digest(_CHECKS) + hashlib.sha256(Path(trace.__file__).read_bytes()).hexdigest()


def check_reference(path: Path | str) -> Path:
    """Return `path`, in `outputs/<model>`, if these checks made it; others may lack what they ask for.

    Raises:
        OpensciError: when there is none, or another.

    """
    path = Path(path)
    if path.exists():
        with safe_open(path, framework="np") as tensors:
            if (tensors.metadata() or {}).get("checks") == _checks():
                return path
    raise OpensciError(
        f"{path}, what {reference_of(path.parent).tf_version} computes, is not there or was made by other checks: "
        f"`snakemake {path}` makes it."
    )


def made_under(path: Path | str) -> str:
    """Return the release that computed a reference."""
    with safe_open(path, framework="np") as tensors:
        return tensors.metadata()["tf_version"]


@contextmanager
def _noted(name: str, lacking: dict[str, str]) -> Generator[None]:
    """Note an error as what the reference itself fails of: it has nothing to compare with then."""
    try:
        yield
    except Exception as error:  # whatever it is, it goes to the record
        lacking[name] = f"{type(error).__name__}: {error}"
        print(f"The reference has no {name} ({lacking[name]}).")


def compute(original: Path, path: Path, work: Path) -> None:
    """Write the reference, with `work` for a folder to be used and left; to be called under the reference release.

    It is a safetensors file: in all `SETTINGS` the logits of each of `case.TEXTS`, those of the padded batches, and
    what the model gives when it is asked for attention weights with each of `attention.CACHES`; and, as UTF-8, what
    the tokenizer makes of `awkward.strings()` and the trace of each of `kernels.USES`. Of these uses and caches the
    folder itself may fail some there; what they are, and how, is said and kept as `lacking`.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    from opensci_lib.compat import awkward
    from opensci_lib.compat.case import Case, logits
    from opensci_lib.compat.features import kernels
    from opensci_lib.compat.features.attention import CACHES, attended
    from opensci_lib.compat.features.logits import padded
    from opensci_lib.runs.trace import encoded

    case = Case(original, work, is_reference=True)
    tensors, lacking = {"tokenizer": awkward.encoded(case.tokenizer)}, {}
    for name, use in kernels.USES.items():
        with case.fresh(), _noted(f"trace {name}", lacking):
            tensors[f"trace {name}"] = torch.tensor(list(encoded(use(case))), dtype=torch.uint8)
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
            with _noted(f"{dtype} {attention} {cache} cache", lacking):
                for name, tensor in attended(model, case.ids, cache).items():
                    tensors[f"{dtype} {attention} {cache} cache {name}"] = tensor
    partial = path.with_name(f".{path.name}")
    made_by = {"checks": _checks(), "tf_version": transformers.__version__, "lacking": json.dumps(lacking)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, made_by)
    follow_umask(partial)
    partial.replace(path)


if __name__ == "__main__":
    with scratch() as modules:
        # transformers copies a model's code to a cache that processes share, and another may import it half copied.
        os.environ["HF_MODULES_CACHE"] = str(modules)
        from opensci_lib.compat.case import surroundings

        with surroundings():
            compute(Path(sys.argv[1]), Path(sys.argv[2]), Path(modules) / "work")
