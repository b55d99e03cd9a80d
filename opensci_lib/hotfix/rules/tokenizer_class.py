"""Load the tokenizer from tokenizer.json alone.

5.x builds the tokenizer of a class that it knows by that class's own recipe, and only fills in the vocabulary. What
else tokenizer.json says, such as no Unicode normalisation, is lost, and the same text gets other ids.
"""

from typing import Any

from opensci_lib.hotfix.rule import Rule, Sources


def rewrite(sources: Sources) -> dict[str, Any] | None:
    """Name the class that takes tokenizer.json as it is on all releases; GPT-NeoX never had another file."""
    settings = sources.tokenizer_config
    if settings is None or settings.get("tokenizer_class") not in ("GPTNeoXTokenizer", "GPTNeoXTokenizerFast"):
        return None
    return {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}


RULE = Rule(
    id="tokenizer-class",
    target="tokenizer_config",
    releases="5.0 and later",
    cause="5.x rebuilds a GPTNeoXTokenizer by its own recipe, with other normalisation than tokenizer.json says.",
    before='{"tokenizer_class": "GPTNeoXTokenizer"}',
    after='{"tokenizer_class": "PreTrainedTokenizerFast"}',
    trf=(),
    rewrite=rewrite,
)
