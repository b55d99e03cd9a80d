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
    causal_loss,
    causal_mask,
    checkpoint_layers,
    init_weights,
    local_code,
    loss_kwargs,
    mask_device,
    model_input_names,
    pipeline_tokenizer,
    return_dict,
    rope_buffer,
    rope_default,
    rope_parameters,
    save_code,
    sdpa_arguments,
    tie_word_embeddings,
    tied_keys,
    tied_weights,
    tokenizer_class,
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
    causal_loss.RULE,
    causal_mask.RULE,  # imports below the others, as checkpoint-layers and loss-kwargs do
    checkpoint_layers.RULE,
    init_weights.RULE,
    local_code.RULE,
    loss_kwargs.RULE,
    mask_device.RULE,
    model_input_names.RULE,
    pipeline_tokenizer.RULE,
    return_dict.RULE,
    rope_buffer.RULE,
    rope_default.RULE,
    rope_parameters.RULE,
    save_code.RULE,
    sdpa_arguments.RULE,
    tie_word_embeddings.RULE,
    tied_keys.RULE,
    tied_weights.RULE,
    tokenizer_class.RULE,
)
