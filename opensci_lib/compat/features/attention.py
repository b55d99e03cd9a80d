"""The kinds of attention, and the weights that they give."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits
from opensci_lib.compat.features.logits import padded

CACHES = ("no", "dynamic", "static")
_STATIC_LENGTH = 128  # past every text of the checks, spelled in bytes by native models, and the token after it


@feature("flags: all that a native Llama sets")
def flags(case: Case) -> None:
    read = [name for name in dir(transformers.PreTrainedModel) if re.match(r"_supports_|_can_", name)]
    wanted = {name for name in read if getattr(transformers.LlamaForCausalLM, name) is True}
    expect(wanted, "a native Llama sets none")
    ours = type(case.model)
    expect_equal({name for name in wanted if getattr(ours, name) is not True}, set(), "flags missing")


@feature("flash attention: asked for, refused only where the package is missing")
def flash(case: Case) -> None:
    try:
        model = case.load(dtype="bfloat16", attn_implementation="flash_attention_2")
    except ImportError as error:
        expect("flash" in str(error).lower(), str(error))
        return
    expect_equal(model.config._attn_implementation, "flash_attention_2", "attention")


@feature("attention chosen anew after loading")
def switch(case: Case) -> None:
    model, ids = case.load(attn_implementation="sdpa"), case.ids[1]
    model.set_attn_implementation("eager")
    expect_equal(model.config._attn_implementation, "eager", "attention")
    expect_equal(logits(model, ids), logits(case.load(attn_implementation="eager"), ids), "logits")


@feature("flex attention", compiled=True)
def flex(case: Case) -> None:
    shallow = case.edited(num_hidden_layers=1)  # it is compiled
    model = shallow.load(attn_implementation="flex_attention")
    expect_equal(model.config._attn_implementation, "flex_attention", "attention")
    expect_close(logits(model, case.ids[1]), logits(shallow.model, case.ids[1]), "logits", 1e-3)


def attended(model: Any, rows: list[torch.Tensor], cache: str) -> dict[str, torch.Tensor]:
    """Return what a model computes when it is asked for attention weights, by text, way, step and quantity.

    The texts are each row of token ids alone and all of them as a left-padded batch; the ways, passes by hand and
    `generate`; the steps, reading the text and decoding one token after it. The quantities are the attention weights
    of all tokens that are no padding, (tokens, layers, heads, keys), and of the last token the logits, (rows,
    vocabulary), or, by `generate`, the last hidden state, (rows, hidden size): there logits are computed of more or
    of fewer tokens from release to release, and rounded accordingly.
    """
    texts = {str(number): (ids, torch.ones_like(ids)) for number, ids in enumerate(rows)}
    texts["batch"] = padded(rows, "left")[:2]
    found = {}
    for text, (ids, mask) in texts.items():
        for way, steps in (("by hand", _by_hand), ("generate", _generated)):
            for step, (scores, weights) in enumerate(steps(model, ids, mask, cache)):
                by_token = torch.stack(weights, 1).permute(0, 3, 1, 2, 4)
                tokens = torch.nn.functional.pad(mask, (0, step), value=1)[:, -by_token.shape[1] :].bool()
                found[f"{text} {way} {step} attention"] = by_token[tokens]
                found[f"{text} {way} {step} {'logits' if way == 'by hand' else 'states'}"] = scores[:, -1]
    return found


@torch.no_grad()
def _by_hand(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: str) -> Iterator[tuple]:
    """Yield logits and attention weights, by layer, of a pass over the text and of one more token."""
    options = {"use_cache": cache != "no", "output_attentions": True, **_cache(model, len(ids), cache)}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(ids, attention_mask=mask, position_ids=positions, **options)
    yield output.logits, output.attentions
    following, next_position = output.logits[:, -1:].argmax(-1), positions[:, -1:] + 1
    if cache == "no":
        following, next_position = torch.cat([ids, following], 1), torch.cat([positions, next_position], 1)
    options |= {"past_key_values": output.past_key_values}
    mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    output = model(following, attention_mask=mask, position_ids=next_position, **options)
    yield output.logits, output.attentions


def _generated(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: str) -> Iterator[tuple]:
    """Yield the last hidden states and attention weights, by layer, of the two steps of `generate`."""
    output = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        pad_token_id=0,
        use_cache=cache != "no",
        output_attentions=True,
        output_hidden_states=True,
        return_dict_in_generate=True,
        **_cache(model, len(ids), cache),
    )
    for states, weights in zip(output.hidden_states, output.attentions, strict=True):
        yield states[-1], weights


def _cache(model: Any, rows: int, cache: str) -> dict[str, Any]:
    """Return the argument that hands over a static cache; the others are the model's own affair."""
    if cache != "static":
        return {}
    settings = {
        "config": model.config,
        "max_batch_size": rows,
        "max_cache_len": _STATIC_LENGTH,
        "device": model.device,
        "dtype": model.dtype,
    }
    known = inspect.signature(transformers.StaticCache.__init__).parameters  # later releases want fewer
    return {"past_key_values": transformers.StaticCache(**{k: v for k, v in settings.items() if k in known})}


def _weights_as_on_the_reference(case: Case, attention: str, cache: str) -> None:
    # SDPA gives no weights: the model computes eagerly then, by itself. Native models of later releases leave that
    # to their user, so that only eager attention tells what the release can do.
    for dtype in ("float32", "bfloat16"):
        model = case.load(dtype=dtype, attn_implementation="eager" if case.native else attention)
        for name, found in attended(model, case.ids, cache).items():
            right = case.reference(f"{dtype} {attention} {cache} cache {name}")
            if right is not None:
                expect_equal(found, right, f"{dtype}, {name}")
            if name.endswith("attention"):
                expect_close(found.sum(-1), torch.ones(found.shape[:-1]), f"{dtype}, {name}: sums of weights", 1e-2)


@feature("attention weights asked of SDPA, no cache, as on {reference}")
def weights_of_sdpa(case: Case) -> None:
    _weights_as_on_the_reference(case, "sdpa", "no")


@feature("attention weights asked of SDPA, dynamic cache, as on {reference}")
def weights_of_sdpa_dynamic(case: Case) -> None:
    _weights_as_on_the_reference(case, "sdpa", "dynamic")


@feature("attention weights asked of SDPA, static cache, as on {reference}")
def weights_of_sdpa_static(case: Case) -> None:
    _weights_as_on_the_reference(case, "sdpa", "static")


@feature("attention weights, no cache, as on {reference}")
def weights(case: Case) -> None:
    _weights_as_on_the_reference(case, "eager", "no")


@feature("attention weights, dynamic cache, as on {reference}")
def weights_dynamic(case: Case) -> None:
    _weights_as_on_the_reference(case, "eager", "dynamic")


@feature("attention weights, static cache, as on {reference}")
def weights_static(case: Case) -> None:
    _weights_as_on_the_reference(case, "eager", "static")
