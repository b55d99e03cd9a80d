"""Let `pipeline()` know that the model has a tokenizer.

Until 4.49 it loads one only for its own configurations, or where config.json names the tokenizer's class.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources


def edits(sources: Sources) -> Edits:
    """Name the class that loads tokenizer.json; the class in tokenizer_config.json still goes first."""
    if sources.tokenizer_config is not None and "tokenizer_class" not in sources.config:
        yield sources.config.set("tokenizer_class", value="PreTrainedTokenizerFast")


RULE = Rule(
    id="pipeline-tokenizer",
    target="config",
    releases="4.48 and 4.49",
    cause="pipeline() loads no tokenizer for a model with its own code unless config.json names its class.",
    before='{"model_type": "opensci"}',
    after='{"model_type": "opensci", "tokenizer_class": "PreTrainedTokenizerFast"}',
    edits=edits,
    others={"tokenizer_config": "{}"},
)
