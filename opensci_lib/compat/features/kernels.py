"""What torch is asked for, operation by operation: as the unmodified folder asks for it under its reference.

A native model that asks otherwise on this release is no excuse: what a release leaves to the model's file, the file
can keep. So native models are only asked whether the release has the use at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect
from opensci_lib.compat.features.logits import padded
from opensci_lib.runs.trace import ATTENTION, Operation, compare, decoded, trace

Use = Callable[[Case], list[Operation]]
#: By name; `compat.reference` keeps the trace of each.
USES: dict[str, Use] = {}


def use(name: str) -> Callable[[Use], Use]:
    """Register the function below, which returns a trace, and check that it is the reference's."""

    def register(traced: Use) -> Use:
        USES[name] = traced

        @feature(name)
        def check(case: Case) -> None:
            found, right = traced(case), case.reference(f"trace {name}")
            if right is not None:
                difference = compare(decoded(bytes(right.tolist())), found)
                expect(difference is None, f"{difference}")

        return traced

    return register


@torch.no_grad()
def _forward(model: Any, ids: torch.Tensor, **options: Any) -> list[Operation]:
    return trace(lambda: model(ids, **{"use_cache": False, **options}))


@torch.no_grad()
def _after(model: Any, read: torch.Tensor, ids: torch.Tensor) -> list[Operation]:
    """Return the trace of reading ids after others that are in the cache."""
    past = model(read, use_cache=True).past_key_values
    return trace(lambda: model(ids, past_key_values=past, use_cache=True))


def _training(model: Any, ids: torch.Tensor, **checkpointing: Any) -> list[Operation]:
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    return trace(lambda: model(ids, labels=ids, use_cache=False).loss.backward())


@use("forward")
def forward(case: Case) -> list[Operation]:
    return _forward(case.model, case.ids[1])


@use("forward, with a cache")
def with_cache(case: Case) -> list[Operation]:
    return _forward(case.model, case.ids[1], use_cache=True)


@use("decoding a token")
def decoding(case: Case) -> list[Operation]:
    return _after(case.model, case.ids[1], case.ids[1][:, :1])


@use("a prompt read in two pieces")
def in_pieces(case: Case) -> list[Operation]:
    return _after(case.model, case.ids[1], case.ids[2])


@use("left-padded batch")
def left_padded(case: Case) -> list[Operation]:
    batch, mask, positions = padded(case.ids, "left")
    return _forward(case.model, batch, attention_mask=mask, position_ids=positions)


@use("sequences packed into a row")
def packed(case: Case) -> list[Operation]:
    """4.48.0 knows them apart by a 4-D mask alone, later releases by positions that start again."""
    lengths = [ids.shape[1] for ids in case.ids]
    options: dict[str, Any] = {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]}
    if case.is_reference:
        alone = torch.block_diag(*(torch.ones(length, length).tril() for length in lengths))
        options["attention_mask"] = torch.zeros_like(alone).masked_fill(alone == 0, torch.finfo().min)[None, None]
    found = _forward(case.model, torch.cat(case.ids, 1), **options)
    expect(
        any(operation.arguments.get("attn_mask") for operation in found if operation.name == ATTENTION),
        "sequences in a row see one another: attention is asked for without a mask",
    )
    return found


@use("training")
def training(case: Case) -> list[Operation]:
    return _training(case.load(), case.ids[1])


@use("training, gradient checkpointing, reentrant")
def checkpointing_reentrant(case: Case) -> list[Operation]:
    return _training(case.load(), case.ids[1], use_reentrant=True)


@use("training, gradient checkpointing, not reentrant")
def checkpointing(case: Case) -> list[Operation]:
    return _training(case.load(), case.ids[1], use_reentrant=False)


@use("eager attention")
def eager(case: Case) -> list[Operation]:
    return _forward(case.load(attn_implementation="eager"), case.ids[1])


@use("bfloat16: forward, decoding, training")
def bfloat16(case: Case) -> list[Operation]:
    return _three(case.load(dtype="bfloat16"), case.ids[1])


@use("grouped heads: forward, decoding, training")
def grouped(case: Case) -> list[Operation]:
    return _three(case.random(num_key_value_heads=case.model.config.num_attention_heads // 2), case.ids[1])


def _three(model: Any, ids: torch.Tensor) -> list[Operation]:
    return [*_forward(model, ids), *_after(model, ids, ids[:, :1]), *_training(model, ids)]


class _Largest(TorchDispatchMode):
    """Sees how many numbers the largest tensor holds that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return result


def _expect_small(case: Case, positions: int, learn: bool) -> None:
    """Expect no tensor of positions times positions where one layer of one head reads or learns a row of tokens."""
    one = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1)
    model, ids = case.random(**one, vocab_size=300), torch.zeros(1, positions, dtype=torch.int64)
    with _Largest() as largest, torch.set_grad_enabled(learn):
        output = model.train(learn)(ids, labels=ids if learn else None, use_cache=False)
        if learn:
            output.loss.backward()
    expect(case.native or largest.numbers < positions**2, f"a tensor of {largest.numbers} numbers is made")


@feature("4,096 and 16,384 tokens read without a tensor of positions times positions")
def reading(case: Case) -> None:
    for positions in (4096, 16384):
        _expect_small(case, positions, learn=False)


@feature("4,096 and 16,384 tokens learned without a tensor of positions times positions")
def learning(case: Case) -> None:
    for positions in (4096, 16384):
        _expect_small(case, positions, learn=True)
