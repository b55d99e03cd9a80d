"""Let an **unmodified** open-sci folder load in this process, on transformers 4.48 to 4.57.

`transformers.utils` offers `LossKwargs` until 4.53 and `TransformersKwargs` from 4.54. Both are
typed dictionaries that only annotate keyword arguments, so either can stand in for the other.
From 5.0 on more than a name is missing and only the hotfix helps.
"""

from __future__ import annotations

from types import TracebackType

from opensci_lib.errors import OpensciError

_NAMES = ("LossKwargs", "TransformersKwargs")


class Shim:
    """The names that `apply` added to `transformers.utils`; leaving its `with` block removes them."""

    def __init__(self, added: tuple[str, ...]):
        self.added = added

    def undo(self) -> None:
        """Remove what was added. A second call finds nothing to do."""
        import transformers.utils

        for name in self.added:
            delattr(transformers.utils, name)
        self.added = ()

    def __enter__(self) -> Shim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def apply() -> Shim:
    """Add whichever of `LossKwargs` and `TransformersKwargs` this release lacks, as an alias of the other.

    Returns a `Shim`, whose `added` names what was missing; applying again adds nothing.

    Raises:
        OpensciError: on a release that has neither name, or no "default" RoPE (5.0 and later).

    """
    import transformers.utils
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    present = [name for name in _NAMES if hasattr(transformers.utils, name)]
    if not present or "default" not in ROPE_INIT_FUNCTIONS:
        raise OpensciError(
            f"The shim serves transformers 4.48 to 4.57 and this is {transformers.__version__}: "
            "run `opensci hotfix` on the model folder and load the fixed one."
        )
    missing = tuple(name for name in _NAMES if name not in present)
    for name in missing:
        setattr(transformers.utils, name, getattr(transformers.utils, present[0]))
    return Shim(missing)
