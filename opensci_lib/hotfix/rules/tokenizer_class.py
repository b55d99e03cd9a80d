"""Load the tokenizer from tokenizer.json alone.

5.x builds the tokenizer of a class that it knows by that class's own recipe, and only fills in the vocabulary. What
else tokenizer.json says, such as no Unicode normalisation, is lost, and the same text gets other ids.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources


def edits(sources: Sources) -> Edits:
    """Name the class that takes tokenizer.json as it is on all releases; GPT-NeoX never had another file."""
    settings = sources.tokenizer_config
    if settings is not None and settings.get("tokenizer_class") in ("GPTNeoXTokenizer", "GPTNeoXTokenizerFast"):
        yield settings.set("tokenizer_class", value="PreTrainedTokenizerFast")


RULE = Rule(
    id="tokenizer-class",
    target="tokenizer_config",
    releases="5.0 and later",
    cause="5.x rebuilds a GPTNeoXTokenizer by its own recipe, with other normalisation than tokenizer.json says.",
    before='{"tokenizer_class": "GPTNeoXTokenizer"}',
    after='{"tokenizer_class": "PreTrainedTokenizerFast"}',
    edits=edits,
)
