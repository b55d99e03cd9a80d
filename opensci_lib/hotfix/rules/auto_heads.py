"""Name the file's other heads in `auto_map`.

The published file defines a sequence classifier that no auto class leads to.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import method

_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def edits(sources: Sources) -> Edits:
    """Add an entry for each class that is named after a head and has a `forward`."""
    auto_map = sources.config.get("auto_map", {})
    if "AutoModelForCausalLM" not in auto_map:
        return
    file = auto_map["AutoModelForCausalLM"].rpartition(".")[0].rpartition("--")[2]
    for name, node in sources.modeling.classes.items():
        for head in _HEADS:
            if name.endswith(head) and f"AutoModel{head}" not in auto_map and method(node, "forward"):
                yield sources.config.set("auto_map", f"AutoModel{head}", value=f"{file}.{name}")


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
    edits=edits,
    others={"modeling": "class ForSequenceClassification(Base):\n    def forward(self): ...\n"},
)
