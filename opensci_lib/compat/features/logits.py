"""Logits, bit for bit those of the unmodified folder under its reference."""

import torch

from opensci_lib.compat import feature
from opensci_lib.compat.case import NEW_TOKENS, Case, expect, expect_equal, greedy, logits


def _as_on_the_reference(case: Case, dtype: str, attention: str) -> None:
    model = case.load(dtype=dtype, attn_implementation=attention)
    for number, ids in enumerate(case.ids):
        right = case.reference(f"{dtype} {attention} {number}")
        found = logits(model, ids)
        expect(found.isfinite().all(), "logits are not finite")
        if right is not None:
            expect_equal(found, right, "logits")


@feature("float32, SDPA, as on {reference}", basic=True)
def float32_sdpa(case: Case) -> None:
    _as_on_the_reference(case, "float32", "sdpa")


@feature("float32, eager, as on {reference}", basic=True)
def float32_eager(case: Case) -> None:
    _as_on_the_reference(case, "float32", "eager")


@feature("bfloat16, SDPA, as on {reference}", basic=True)
def bfloat16_sdpa(case: Case) -> None:
    _as_on_the_reference(case, "bfloat16", "sdpa")


@feature("bfloat16, eager, as on {reference}", basic=True)
def bfloat16_eager(case: Case) -> None:
    _as_on_the_reference(case, "bfloat16", "eager")


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, attention mask and position ids of a batch padded on one side, int64 (rows, positions)."""
    width = max(row.shape[1] for row in rows)
    batch, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        where = slice(width - row.shape[1], None) if side == "left" else slice(row.shape[1])
        batch[number, where], mask[number, where] = row[0], 1
    return batch, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _batch(case: Case, side: str) -> None:
    batch, mask, positions = padded(case.ids, side)
    for dtype, attention in (("float32", "sdpa"), ("float32", "eager"), ("bfloat16", "sdpa")):
        model = case.load(dtype=dtype, attn_implementation=attention)
        found = logits(model, batch, attention_mask=mask, position_ids=positions)[mask.bool()]
        if (right := case.reference(f"{dtype} {attention} {side}")) is not None:
            expect_equal(found, right, f"logits in {dtype}, {attention}")
        if dtype == "float32":
            alone = torch.cat([logits(model, ids)[0] for ids in case.ids])
            expect_equal(found.argmax(-1).tolist(), alone.argmax(-1).tolist(), "likeliest tokens, row by row")


@feature("left-padded batch, as on {reference} and each row as alone")
def left_padded(case: Case) -> None:
    _batch(case, "left")
    batch, mask, _ = padded(case.ids, "left")
    together = case.model.generate(
        batch, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )[:, batch.shape[1] :].tolist()
    for row, ids in zip(together, case.ids, strict=True):
        alone = greedy(case, ids)
        expect_equal(row[: len(alone)], alone, "tokens of a padded row")


@feature("right-padded batch, as on {reference} and each row as alone")
def right_padded(case: Case) -> None:
    _batch(case, "right")
