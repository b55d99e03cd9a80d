"""Let `pipeline()` know that the model has a tokenizer.

Until 4.49 it loads one only for its own configurations, or where config.json names the tokenizer's class.
"""

from typing import Any

from opensci_lib.hotfix.rule import Rule, Sources


def rewrite(sources: Sources) -> dict[str, Any] | None:
    """Name the class that loads tokenizer.json; the class in tokenizer_config.json still goes first."""
    if sources.tokenizer_config is None or "tokenizer_class" in sources.config:
        return None
    return {**sources.config, "tokenizer_class": "PreTrainedTokenizerFast"}


RULE = Rule(
    id="pipeline-tokenizer",
    target="config",
    releases="4.48 and 4.49",
    cause="pipeline() loads no tokenizer for a model with its own code unless config.json names its class.",
    before='{"model_type": "opensci"}',
    after='{"model_type": "opensci", "tokenizer_class": "PreTrainedTokenizerFast"}',
    trf=(),
    rewrite=rewrite,
    others={"tokenizer_config": "{}"},
)
