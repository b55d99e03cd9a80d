"""Name a tokenizer class that makes of tokenizer.json what it says, on all releases.

5.x builds the tokenizer of a class that it knows by that class's own recipe, and only fills in the vocabulary. What
else tokenizer.json says, such as no Unicode normalisation, is lost, and the same text gets other ids. Where
tokenizer.json says nothing else, the class stays: on 4.x it alone obeys `add_bos_token` and `add_eos_token`.

5.x saves what it loads without a recipe as a TokenizersBackend, which 4.x does not know.
"""

from collections.abc import Mapping
from typing import Any

from opensci_lib.hotfix.rule import Edits, Rule, Sources

_GPT_NEOX = "GPTNeoXTokenizer"
_NAMES = (_GPT_NEOX, f"{_GPT_NEOX}Fast", "TokenizersBackend")
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def edits(sources: Sources) -> Edits:
    """Name GPT-NeoX's class for a tokenizer.json of its recipe, and for others the class that takes it as it is."""
    settings = sources.tokenizer_config
    if settings is None or settings.get("tokenizer_class") not in _NAMES:
        return
    if settings.get("add_prefix_space") or not _is_gpt_neox(sources.tokenizer or {}):
        yield settings.set("tokenizer_class", value="PreTrainedTokenizerFast")
        return
    if settings["tokenizer_class"] == "TokenizersBackend":
        yield settings.set("tokenizer_class", value=_GPT_NEOX)
    if "pad_token" not in settings:
        yield settings.set("pad_token", value=None)  # as on 4.x; 5.x would name one


def _is_gpt_neox(tokenizer: Mapping[str, Any]) -> bool:
    """Say whether tokenizer.json is what `GPTNeoXTokenizer` of transformers 5 makes of its vocabulary."""
    parts = {name: tokenizer.get(name) or {} for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor")}
    model, named = tokenizer.get("model", {}), {token["content"] for token in tokenizer.get("added_tokens", [])}
    return (
        parts["normalizer"] == {"type": "NFC"}
        and {"use_regex": True, **parts["pre_tokenizer"]} == {"use_regex": True, **_BYTES}
        and parts["decoder"].get("type") == "ByteLevel"
        # a template that adds tokens is lost where the class makes its own
        and (
            parts["post_processor"].get("type") in (None, "ByteLevel")
            or not parts["post_processor"].get("special_tokens")
        )
        and model.get("type") == "BPE"
        and not any(
            model.get(name) for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
        )
        and {"<|endoftext|>", "<|padding|>"} <= named
    )


RULE = Rule(
    id="tokenizer-class",
    target="tokenizer_config",
    releases="5.0 and later, 4.48 to 4.57",
    cause=(
        "5.x rebuilds a GPTNeoXTokenizer by its own recipe, with other normalisation than tokenizer.json may say. "
        "It saves a TokenizersBackend, which 4.x does not know."
    ),
    before='{"tokenizer_class": "GPTNeoXTokenizer"}',
    after='{"tokenizer_class": "PreTrainedTokenizerFast"}',
    edits=edits,
)
