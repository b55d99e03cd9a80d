"""Read what every configuration once had with the value that it had.

Until 4.57 the library's configuration gave each model settings of generation, token ids and the like, whether its
own named them or not. From 5.0 on a setting that neither the configuration's code nor config.json names is not there.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, arguments, dotted, method

#: What was there by default. From 5.0 on those of generation are taken out of config.json, too.
_GENERATION = {
    "max_length": 20, "min_length": 0, "do_sample": False, "early_stopping": False, "num_beams": 1,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
    "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None, "num_return_sequences": 1, "output_scores": False, "return_dict_in_generate": False,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "remove_invalid_values": False,
    "exponential_decay_length_penalty": None, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
_DEFAULTS = {
    **_GENERATION,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "sep_token_id": None,
    "decoder_start_token_id": None, "tie_word_embeddings": True, "is_decoder": False, "add_cross_attention": False,
    "cross_attention_hidden_size": None, "tie_encoder_decoder": False, "torchscript": False, "use_bfloat16": False,
    "tokenizer_class": None, "prefix": None, "finetuning_task": None, "task_specific_params": None,
}  # fmt: skip
_BASES = ("PretrainedConfig", "PreTrainedConfig")


def edits(sources: Sources) -> Edits:
    """Give the default where a setting is read that the model's own configuration lacks."""
    source, configuration = sources.modeling, sources.configuration
    named = _named(configuration) if configuration else None
    if named is None:
        return
    for read in source.find(ast.Attribute):
        name, place = read.attr, dotted(read.value)
        if name not in _DEFAULTS or name in named or not isinstance(read.ctx, ast.Load):
            continue
        if place.rpartition(".")[2] != "config":
            continue
        if name in _GENERATION and sources.config.get(name) is not None:
            raise UnrecognisedError(read, f"config.json names {name}, which 5.0 and later take out of it")
        yield source.replaced(read, f'getattr({place}, "{name}", {_DEFAULTS[name]})')


def _named(source: Source) -> set[str] | None:
    """Return what the classes that derive from the library's bare configuration name; None where there is none."""
    classes = source.classes
    own = [classes[name] for name in classes if any(base.endswith(_BASES) for base in source.ancestry(name))]
    if not own:
        return None
    found: set[str] = set()
    for owner in own:
        found |= {node.name for node in owner.body if isinstance(node, ast.FunctionDef)}
        found |= {node.id for node in source.find(ast.Name, within=owner) if isinstance(node.ctx, ast.Store)}
        found |= {node.attr for node in source.find(ast.Attribute, within=owner) if isinstance(node.ctx, ast.Store)}
        if initializer := method(owner, "__init__"):
            found |= arguments(initializer).keys()
            handed_on = source.calls("super().__init__", initializer)
            found |= {keyword.arg for call in handed_on for keyword in call.keywords if keyword.arg}
    return found


RULE = Rule(
    id="config-defaults",
    releases="5.0 and later",
    cause="Settings that every configuration had, such as pad_token_id and max_length, are there only where named.",
    before="padding = self.config.pad_token_id\n",
    after='padding = getattr(self.config, "pad_token_id", None)\n',
    others={
        "configuration": (
            "from transformers import PretrainedConfig\n"
            "\n"
            "class Config(PretrainedConfig):\n"
            "    def __init__(self, hidden_size=64, **kwargs):\n"
            "        self.hidden_size = hidden_size\n"
            "        super().__init__(**kwargs)\n"
        )
    },
    signs=tuple(f"object has no attribute '{name}'" for name in ("pad_token_id", "max_length", "is_decoder")),
    edits=edits,
)
