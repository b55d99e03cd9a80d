"""The rules, one a module. Each says what breaks where and why, and shows itself before and after.

A rule looks at the source, never at what others make of it, so any of them may be left out.
"""

from opensci_lib.hotfix.rule import Rule
from opensci_lib.hotfix.rules import (
    attention_switch,
    auto_heads,
    auto_model,
    cache_internals,
    cache_length,
    cache_position,
    capability_flags,
    causal_mask,
    checkpoint_layers,
    expert_names,
    init_weights,
    legacy_cache,
    loss_kwargs,
    lost_buffers,
    lost_imports,
    mask_device,
    mask_embeds,
    model_input_names,
    pipeline_tokenizer,
    return_dict,
    rope_buffer,
    rope_default,
    rope_parameters,
    rope_type,
    save_code,
    sliding_window,
    tie_word_embeddings,
    tied_keys,
    tokenizer_class,
    tuple_cache,
)

#: In the order in which what they insert at one place comes out.
RULES: tuple[Rule, ...] = (
    attention_switch.RULE,  # appends to the PreTrainedModel class, as rope-buffer may
    auto_heads.RULE,
    auto_model.RULE,
    cache_internals.RULE,
    cache_length.RULE,
    cache_position.RULE,
    capability_flags.RULE,
    causal_mask.RULE,  # imports below the others, as checkpoint-layers and loss-kwargs do
    checkpoint_layers.RULE,
    expert_names.RULE,
    init_weights.RULE,  # the library's `_init_weights` runs before the reset of rope-buffer
    legacy_cache.RULE,
    loss_kwargs.RULE,
    lost_buffers.RULE,
    lost_imports.RULE,
    mask_device.RULE,
    mask_embeds.RULE,
    model_input_names.RULE,
    pipeline_tokenizer.RULE,
    return_dict.RULE,
    rope_buffer.RULE,  # puts a method below `__init__`, as rope-default does
    rope_default.RULE,
    rope_parameters.RULE,
    rope_type.RULE,
    save_code.RULE,
    sliding_window.RULE,
    tie_word_embeddings.RULE,
    tied_keys.RULE,
    tokenizer_class.RULE,
    tuple_cache.RULE,
)
