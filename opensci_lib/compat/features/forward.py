"""The arguments of a forward pass, and what it returns besides logits."""

import inspect

import torch

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits


@torch.no_grad()
def _last_three(case: Case, name: str) -> None:
    if case.native:  # it goes by one name a release, the model's own code by both
        name = next(known for known in inspect.signature(case.model.forward).parameters if "logits_to_keep" in known)
    for ids in case.ids:
        kept = case.model(ids, use_cache=False, **{name: 3}).logits
        expect_close(kept, logits(case.model, ids)[:, -3:], "last three logits")


@feature("logits_to_keep")
def logits_to_keep(case: Case) -> None:
    _last_three(case, "logits_to_keep")


@feature("num_logits_to_keep, the older name")
def num_logits_to_keep(case: Case) -> None:
    _last_three(case, "num_logits_to_keep")


@feature("output_hidden_states")
@torch.no_grad()
def hidden_states(case: Case) -> None:
    ids = case.ids[1]
    output = case.model(ids, use_cache=False, output_hidden_states=True)
    expect_equal(len(output.hidden_states), case.model.config.num_hidden_layers + 1, "hidden states")
    expect_equal(output.hidden_states[0], case.model.get_input_embeddings()(ids), "the first hidden state")
    head = case.model.get_output_embeddings()
    expect_equal(head(output.hidden_states[-1]), output.logits, "the head's output of the last hidden state")
    expect_equal(output.logits, logits(case.model, ids), "logits")


@feature("output_attentions")
@torch.no_grad()
def attentions(case: Case) -> None:
    ids = case.ids[1]
    model = case.load(attn_implementation="eager")
    output = model(ids, use_cache=False, output_attentions=True)
    expect_equal(len(output.attentions), model.config.num_hidden_layers, "attention maps")
    length = ids.shape[1]
    for weights in output.attentions:
        expect_equal(tuple(weights.shape), (1, model.config.num_attention_heads, length, length), "shape")
        expect_close(weights.sum(-1), torch.ones(weights.shape[:-1]), "sums of attention weights", 1e-5)
        expect(not weights.triu(1).any(), "a position attends to a later one")
    expect_equal(output.logits, logits(model, ids), "logits")


@feature("inputs_embeds")
@torch.no_grad()
def inputs_embeds(case: Case) -> None:
    for ids in case.ids:
        embeds = case.model.get_input_embeddings()(ids)
        expect_equal(case.model(inputs_embeds=embeds, use_cache=False).logits, logits(case.model, ids), "logits")
    begun = case.model.generate(
        inputs_embeds=embeds, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0
    )
    whole = case.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0
    )
    expect_equal(begun[0].tolist(), whole[0, ids.shape[1] :].tolist(), "tokens generated")


@feature("position_ids given")
def position_ids(case: Case) -> None:
    for ids in case.ids:
        positions = torch.arange(ids.shape[1])[None]
        expect_equal(logits(case.model, ids, position_ids=positions), logits(case.model, ids), "logits")
        # RoPE is relative: all positions moved by five change nothing but rounding.
        expect_close(logits(case.model, ids, position_ids=positions + 5), logits(case.model, ids), "moved", 1e-2)
    stretched = logits(case.model, ids, position_ids=positions * 3)
    expect(not torch.allclose(stretched, logits(case.model, ids), atol=1e-3), "position_ids are not read")


@feature("sequences packed into a row")
def packed(case: Case) -> None:
    rows = case.ids
    positions = torch.cat([torch.arange(ids.shape[1])[None] for ids in rows], 1)
    for attention in ("sdpa", "eager"):
        model = case.load(attn_implementation=attention)
        alone = torch.cat([logits(model, ids) for ids in rows], 1)
        expect_close(logits(model, torch.cat(rows, 1), position_ids=positions), alone, f"{attention}, logits", 1e-3)


@feature("cache_position handed over, as far as the release moves it along")
@torch.no_grad()
def cache_position(case: Case) -> None:
    for ids in case.ids:
        begun = {"use_cache": True, "cache_position": torch.arange(3)}
        first = case.model(ids[:, :3], **begun)
        following = case.model._update_model_kwargs_for_generation(first, begun)
        place = following.get("cache_position")
        found = case.model(ids[:, 3:4], past_key_values=first.past_key_values, use_cache=True, cache_position=place)
        expect_close(found.logits[:, 0], logits(case.model, ids)[:, 3], "logits of the fourth token")


@feature("4-D attention mask")
def mask_4d(case: Case) -> None:
    for attention in ("sdpa", "eager"):
        model = case.load(attn_implementation=attention)
        for ids in case.ids:
            length = ids.shape[1]
            mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
            expect_close(logits(model, ids, attention_mask=mask), logits(model, ids), f"logits, {attention}")
        # The first token hidden from all later ones: as if the text began with the second.
        mask[..., 1:, 0] = torch.finfo(torch.float32).min
        found = logits(model, ids, attention_mask=mask, position_ids=torch.arange(length)[None])
        alone = logits(model, ids[:, 1:], position_ids=torch.arange(1, length)[None])
        expect_close(found[:, 1:], alone, f"logits past a hidden token, {attention}", 1e-3)


@feature("labels and loss")
@torch.no_grad()
def loss(case: Case) -> None:
    for ids in case.ids:
        labels = ids.clone()
        labels[0, 1] = -100
        output = case.model(ids, labels=labels, use_cache=False)
        log_probabilities = output.logits[0, :-1].double().log_softmax(-1)
        nats = -log_probabilities[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        expect_close(output.loss, nats[1:].mean(), "cross-entropy, the ignored label left out", 1e-4)


@feature("return_dict=False")
@torch.no_grad()
def as_tuple(case: Case) -> None:
    ids = case.ids[0]
    output = case.model(ids, use_cache=False, return_dict=False)
    expect(isinstance(output, tuple), f"{type(output).__name__} instead of a tuple")
    expect_equal(output[0], logits(case.model, ids), "logits")
