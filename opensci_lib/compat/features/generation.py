"""generate() in all its ways; the greedy ones give the tokens that a loop without cache gives."""

from typing import Any

import torch
from transformers.generation import configuration_utils

from opensci_lib.compat import feature
from opensci_lib.compat.case import (
    NEW_TOKENS,
    Case,
    expect,
    expect_close,
    expect_equal,
    greedy,
    greedy_by_hand,
    logits,
)


def _as_by_hand(case: Case, **options: Any) -> None:
    for ids in case.ids:
        expect_equal(greedy(case, ids, **options), greedy_by_hand(case, ids), "tokens")


@feature("greedy")
def plain(case: Case) -> None:
    _as_by_hand(case)


@feature("greedy, use_cache=False")
def without_cache(case: Case) -> None:
    _as_by_hand(case, use_cache=False)


@feature("sampling with a seed")
def sampling(case: Case) -> None:
    ids = case.ids[0]
    torch.manual_seed(7)
    found = greedy(case, ids, do_sample=True, top_k=0, temperature=0.8, use_cache=False)
    torch.manual_seed(7)
    expected = ids
    for _ in found:
        with torch.no_grad():
            following = case.model(expected, use_cache=False).logits[:, -1].float() / 0.8
        expected = torch.cat([expected, torch.multinomial(following.softmax(-1), 1)], 1)
    expect_equal(found, expected[0, ids.shape[1] :].tolist(), "tokens drawn")


@feature("beam search")
def beam(case: Case) -> None:
    for ids in case.ids:
        found = case.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            num_beams=4,
            do_sample=False,
            length_penalty=0.0,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        score = _log_probability(case, found.sequences[0], ids.shape[1])
        expect_close(found.sequences_scores[0], score, "log-probability of the best beam", 1e-3)


@torch.no_grad()
def _log_probability(case: Case, sequence: torch.Tensor, start: int) -> torch.Tensor:
    """Return the log-probability of a sequence's tokens from `start` on, by a plain forward pass, in nats."""
    ends = (sequence[start:] == case.model.config.eos_token_id).nonzero()
    length = start + int(ends[0]) + 1 if len(ends) else len(sequence)
    log_probabilities = case.model(sequence[None, :length], use_cache=False).logits[0].log_softmax(-1)
    return log_probabilities[torch.arange(start - 1, length - 1), sequence[start:length]].sum()


@feature("cache_implementation dynamic")
def dynamic(case: Case) -> None:
    from transformers import DynamicCache

    _as_by_hand(case)
    for ids in case.ids:
        expect_equal(greedy(case, ids, past_key_values=DynamicCache()), greedy_by_hand(case, ids), "tokens")


@feature("cache_implementation static")
def static(case: Case) -> None:
    _as_by_hand(case, cache_implementation="static")


@feature("cache_implementation static, left-padded batch")
def static_batch(case: Case) -> None:
    from opensci_lib.compat.features.logits import padded

    batch, mask, _ = padded(case.ids, "left")
    rows = case.model.generate(
        batch,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        cache_implementation="static",
    )[:, batch.shape[1] :].tolist()
    for row, ids in zip(rows, case.ids, strict=True):
        alone = greedy_by_hand(case, ids)
        expect_equal(row[: len(alone)], alone, "tokens of a padded row")


@feature("cache_implementation offloaded")
def offloaded(case: Case) -> None:
    _as_by_hand(case, cache_implementation="offloaded")


@feature("cache_implementation quantized")
def quantized(case: Case) -> None:
    backend = "HQQ" if "HQQ" in getattr(configuration_utils, "QUANT_BACKEND_CLASSES_MAPPING", {}) else "hqq"
    settings = {"backend": backend, "nbits": 8, "axis_key": 1, "axis_value": 1, "q_group_size": 16}
    for ids in case.ids:
        output = case.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            cache_implementation="quantized",
            cache_config=dict(settings),  # some releases take the backend out of it
            return_dict_in_generate=True,
            output_logits=True,
        )
        # Eight bits round, which may turn a choice between equals: the logits along the way tell, not the tokens.
        found = torch.cat(output.logits)
        right = logits(case.model, output.sequences)[0, ids.shape[1] - 1 : -1]
        expect_close(found, right, "logits along the way", atol=0.25 * right.std().item())
        expect_equal(found.argmax(-1).tolist(), output.sequences[0, ids.shape[1] :].tolist(), "tokens chosen")


@feature("past_key_values handed over by hand")
@torch.no_grad()
def cache_by_hand(case: Case) -> None:
    for ids in case.ids:
        cut = ids.shape[1] // 2
        first = case.model(ids[:, :cut], use_cache=True)
        output = case.model(ids[:, cut:], past_key_values=first.past_key_values, use_cache=True)
        tokens = [int(output.logits[0, -1].argmax())]
        while len(tokens) < NEW_TOKENS:
            output = case.model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)
            tokens.append(int(output.logits[0, -1].argmax()))
        right = greedy_by_hand(case, ids)
        expect_equal(tokens[: len(right)], right, "tokens")


@feature("prompt lookup decoding")
def prompt_lookup(case: Case) -> None:
    for ids in case.ids:
        found = greedy(case, ids, prompt_lookup_num_tokens=3)
        if case.native:  # until 5.12 it may give one token too many: no reason to excuse what others compute
            found = found[:NEW_TOKENS]
        expect_equal(found, greedy_by_hand(case, ids), "tokens")


@feature("assisted decoding")
def assisted(case: Case) -> None:
    _as_by_hand(case, assistant_model=case.load())


@feature("several sequences a prompt")
def several(case: Case) -> None:
    ids = case.ids[0]
    mask = torch.ones_like(ids)
    rows = case.model.generate(
        ids, attention_mask=mask, max_new_tokens=4, do_sample=True, num_return_sequences=3, pad_token_id=0
    )
    expect_equal(rows.shape[0], 3, "sequences")
    expect((rows[:, : ids.shape[1]] == ids).all(), "the prompt is not at the start of each sequence")
