"""Record which operations a call of a model asks torch for, and compare two such records.

A trace holds the floating-point operations that depend on the model's numbers, in order: each operator with its
scalars and with the dtype, shape and strides of its tensors. Attention is one operation, with all that
`scaled_dot_product_attention` was asked for, since what becomes of it differs from device to device. Left out is what
rounds nothing: views, copies, integers; and what depends on no number of the model, such as the making of a mask.

Two calls of equal traces, on equal weights and inputs, ask torch for the same arithmetic in the same order. The same
torch answers on the same device with the same kernels. So traces are compared on a CPU, or on the meta device, for
what a GPU would do. They prove nothing where even one program does not equal itself from run to run (libraries that
choose an algorithm by timing it, kernels that add in no fixed order), and nothing about another torch or another
device. They hold no values: those of masks and positions, and of the weights, are for a comparison of logits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

#: What attention is called in a trace, and its arguments in order.
ATTENTION = "scaled_dot_product_attention"
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_DEFAULTS = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False}
#: Operators that round nothing where the dtype stays, besides views.
_MOVES = {
    "_to_copy", "_unsafe_view", "cat", "clone", "constant_pad_nd", "copy_", "empty_like", "fill_", "index_copy_",
    "new_empty", "new_empty_strided", "new_zeros", "ones_like", "repeat", "select_backward", "slice_backward",
    "stack", "zero_", "zeros_like",
}  # fmt: skip
#: Arguments that say where a result goes.
_PLACES = {"device", "layout", "memory_format", "non_blocking", "pin_memory"}
_STRIDES = r" in steps of .*"
#: Differences that can't change a bit: in an operation and argument, what of the description does not count, and why.
HARMLESS = (
    (
        ATTENTION,
        "attn_mask",
        re.compile(rf"^\w+(?=\[)|{_STRIDES}"),
        "torch makes a bool mask one of 0 and -inf in the query's dtype before any kernel sees it; what -inf hides "
        "and what the least number hides have weight 0 alike, wherever the mask lies",
    ),
    (
        "aten.add.Tensor",
        "other",
        re.compile(_STRIDES),
        "each sum is rounded by itself, wherever its terms lie: a mask that eager attention adds may be a slice",
    ),
)


@dataclass(frozen=True)
class Operation:
    """An operation: the operator's name and its arguments by name, a tensor as "float32[2, 3]"."""

    name: str
    arguments: dict[str, Any]


def trace(call: Callable[[], Any]) -> list[Operation]:
    """Return the operations of a call, in order, with those of backward passes within it.

    Floating-point tensors that are there before the call count as numbers of the model.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.weak import WeakTensorKeyDictionary

    operations: list[Operation] = []
    #: Of each tensor that the call made, whether it depends on the model's numbers.
    depends: Any = WeakTensorKeyDictionary()
    inside = []  # attention, while it is computed

    class Attention(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            if func is not torch.nn.functional.scaled_dot_product_attention:
                return func(*args, **given)
            asked = _DEFAULTS | dict(zip(_ARGUMENTS, args, strict=False)) | given
            operations.append(Operation(ATTENTION, _described({name: asked[name] for name in _ARGUMENTS})))
            inside.append(func)
            try:
                return func(*args, **given)
            finally:
                inside.pop()

    class Aten(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            names = [argument.name for argument in func._schema.arguments]
            asked = _described(dict(zip(names, args, strict=False)) | given)  # before anything is done in place
            inputs = _tensors((args, given))
            result = func(*args, **given)
            outputs = _tensors(result)
            counts = any(depends.get(tensor, tensor.is_floating_point()) for tensor in inputs)
            counts = counts and func is not torch.ops.aten.lift_fresh.default  # a number that the code writes out
            for tensor in outputs:
                depends[tensor] = counts
            moves = func.is_view or func._schema.name.removeprefix("aten::") in _MOVES
            rounded = [
                tensor
                for tensor in outputs
                if tensor.is_floating_point() and not (moves and tensor.dtype == inputs[0].dtype)
            ]
            if counts and rounded and not inside:
                operations.append(Operation(str(func), asked))
            return result

    with Attention(), Aten():
        call()
    return operations


def compare(reference: list[Operation], candidate: list[Operation]) -> str | None:
    """Return what differs first, in words, but for what is `HARMLESS`; None where nothing does."""
    for number, (right, found) in enumerate(zip(reference, candidate, strict=False), start=1):
        where = f"operation {number} of {len(reference)}"
        if right.name != found.name:
            return f"{where}: {found.name} instead of {right.name}"
        differing = [
            f"{name} {found.arguments.get(name)} instead of {right.arguments.get(name)}"
            for name in right.arguments | found.arguments
            if _counting(right, name) != _counting(found, name)
        ]
        if differing:
            # the shortest first: a flag says more than strides
            return f"{where}, {right.name}: {', '.join(sorted(differing, key=len))}"
    if len(reference) != len(candidate):
        return f"{len(candidate)} operations instead of {len(reference)}"
    return None


def encoded(operations: list[Operation]) -> bytes:
    """Return a trace as JSON in UTF-8."""
    return json.dumps([asdict(operation) for operation in operations]).encode()


def decoded(text: bytes) -> list[Operation]:
    """Return the trace that `encoded` wrote."""
    return [Operation(**operation) for operation in json.loads(text)]


def _counting(operation: Operation, name: str) -> Any:
    """Return what counts of an argument."""
    value = operation.arguments.get(name)
    for concerned, argument, ignored, _ in HARMLESS:
        if (operation.name, name) == (concerned, argument) and isinstance(value, str):
            value = ignored.sub("", value)
    return value


def _tensors(tree: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _described(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: _description(value) for name, value in arguments.items() if name not in _PLACES}


def _description(value: Any) -> Any:
    """Return a value as JSON holds it; of a tensor dtype and shape, and strides where it is not in one piece."""
    import torch

    if isinstance(value, torch.Tensor):
        text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        # of a dimension of one the stride says nothing
        strides = [step if size > 1 else 0 for size, step in zip(value.shape, value.stride(), strict=True)]
        return text if value.is_contiguous() else f"{text} in steps of {strides}"
    if isinstance(value, list | tuple):
        return [_description(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
