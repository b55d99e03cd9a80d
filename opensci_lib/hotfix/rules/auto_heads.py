"""Name the file's other heads in `auto_map`.

The published file defines a sequence classifier that no auto class leads to.
"""

from typing import Any

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import method

_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def rewrite(sources: Sources) -> dict[str, Any] | None:
    """Add an entry for each class that is named after a head and has a `forward`."""
    auto_map = sources.config.get("auto_map", {})
    if "AutoModelForCausalLM" not in auto_map:
        return None
    file = auto_map["AutoModelForCausalLM"].rpartition(".")[0]
    added = {
        f"AutoModel{head}": f"{file}.{name}"
        for name, node in sources.modeling.classes.items()
        for head in _HEADS
        if name.endswith(head) and f"AutoModel{head}" not in auto_map and method(node, "forward")
    }
    return {**sources.config, "auto_map": {**auto_map, **added}} if added else None


RULE = Rule(
    id="auto-heads",
    target="config",
    releases="all",
    cause="auto_map leaves out heads that the file defines, so AutoModelForSequenceClassification finds none.",
    before='{"auto_map": {"AutoModelForCausalLM": "modeling_opensci.ForCausalLM"}}',
    after=(
        '{"auto_map": {"AutoModelForCausalLM": "modeling_opensci.ForCausalLM", '
        '"AutoModelForSequenceClassification": "modeling_opensci.ForSequenceClassification"}}'
    ),
    trf=(),
    rewrite=rewrite,
    others={"modeling": "class ForSequenceClassification(Base):\n    def forward(self): ...\n"},
)
