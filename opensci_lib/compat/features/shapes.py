"""The shapes that the configuration offers, against native models with the same weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from opensci_lib.compat import feature, native
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits


@feature("grouped-query attention")
def grouped_queries(case: Case) -> None:
    heads = case.model.config.num_attention_heads
    grouped = case.random(num_key_value_heads=heads // 2)
    full = case.random(num_key_value_heads=heads)
    size = grouped.config.head_dim
    state = grouped.state_dict()
    for name, tensor in state.items():
        if "k_proj" in name or "v_proj" in name:  # each group's head written out once for every query head
            state[name] = tensor.unflatten(0, (heads // 2, size)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    for ids in case.ids:
        expect_close(logits(grouped, ids), logits(full, ids), "logits")


@feature("tie_word_embeddings=False")
@torch.no_grad()
def untied(case: Case) -> None:
    model = case.random(tie_word_embeddings=False)
    head = model.get_output_embeddings()
    expect(head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr(), "the embeddings are tied")
    head.weight.mul_(2)
    right = [logits(model, ids) for ids in case.ids]
    folder = case.place("untied")
    model.save_pretrained(folder)
    again = Case(folder, case.work / "again", case.native).load()
    expect_equal(again.get_output_embeddings().weight, head.weight, "the head's weight after reload")
    for ids, expected in zip(case.ids, right, strict=True):
        expect_equal(logits(again, ids), expected, "logits after reload")


def _as_llama(case: Case, **changes: Any) -> Any:
    model = case.random(**changes)
    twin = native.llama_of(model)
    for ids in case.ids:
        expect_equal(logits(model, ids), logits(twin, ids), "logits of a native Llama with the same weights")
    return model


@feature("qk_layernorm=False: a native Llama's logits")
def without_norms(case: Case) -> None:
    _as_llama(case, qk_layernorm=False)


@feature("no biases: a native Llama's logits")
def without_biases(case: Case) -> None:
    model = _as_llama(case, qk_layernorm=False, attention_bias=False, mlp_bias=False)
    expect(not any(name.endswith("bias") for name, _ in model.named_parameters()), "there are biases")


@feature("no biases, with qk_layernorm: a native Qwen3's logits")
def with_norms(case: Case) -> None:
    model = case.random(qk_layernorm=True, attention_bias=False, mlp_bias=False)
    if not hasattr(transformers, "Qwen3ForCausalLM"):  # before 4.51: norms that change nothing but scale
        normed = any("norm" in name and "self_attn" in name for name, _ in model.named_parameters())
        expect(normed or case.native, "no norms")  # Llama, the only judge then, has none
        expect(all(logits(model, ids).isfinite().all() for ids in case.ids), "logits are not finite")
        return
    twin = native.qwen3_of(model)
    for ids in case.ids:
        expect_equal(logits(model, ids), logits(twin, ids), "logits of a native Qwen3 with the same weights")
