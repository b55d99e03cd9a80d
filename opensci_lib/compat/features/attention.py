"""What the model says it supports, under the names that the release reads."""

from __future__ import annotations

import re

import transformers

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits


@feature("flags: all that a native Llama sets")
def flags(case: Case) -> None:
    read = [name for name in dir(transformers.PreTrainedModel) if re.match(r"_supports_|_can_", name)]
    wanted = {name for name in read if getattr(transformers.LlamaForCausalLM, name) is True}
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


@feature("flex attention")
def flex(case: Case) -> None:
    shallow = case.edited(num_hidden_layers=1)  # it is compiled
    model = shallow.load(attn_implementation="flex_attention")
    expect_equal(model.config._attn_implementation, "flex_attention", "attention")
    expect_close(logits(model, case.ids[1]), logits(shallow.model, case.ids[1]), "logits", 1e-3)
