"""Say which inputs the model takes, for tokenizers that give more.

A tokenizer without `model_input_names` also returns `token_type_ids` under 4.x, which `generate`
rejects as an argument that the model does not use.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources


def edits(sources: Sources) -> Edits:
    """Add the two inputs of a decoder."""
    settings = sources.tokenizer_config
    if settings is not None and "model_input_names" not in settings:
        yield settings.set("model_input_names", value=["input_ids", "attention_mask"])


RULE = Rule(
    id="model-input-names",
    target="tokenizer_config",
    releases="4.48 to 4.57",
    cause="A tokenizer without model_input_names returns token_type_ids, which generate() rejects.",
    before='{"tokenizer_class": "PreTrainedTokenizerFast"}',
    after='{"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}',
    edits=edits,
)
