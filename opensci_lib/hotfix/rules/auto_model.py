"""Point `auto_map.AutoModel` at the model itself.

The published config.json names the abstract base class there, which has no `forward`, so
`AutoModel.from_pretrained` never worked, on any release.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, dotted, method


def edits(sources: Sources) -> Edits:
    """Name the class that the causal language model builds on, if the one named has no `forward`."""
    source, auto_map = sources.modeling, sources.config.get("auto_map", {})
    reference = auto_map.get("AutoModel")
    if reference is None or "AutoModelForCausalLM" not in auto_map:
        return
    named = reference.rpartition(".")[2]
    head = source.classes.get(auto_map["AutoModelForCausalLM"].rpartition(".")[2])
    if head is None or named not in source.classes or _has_forward(source, named):
        return
    initializer = method(head, "__init__")
    made = [dotted(call.func) for call in source.find(ast.Call, within=initializer)] if initializer else []
    models = [
        name
        for name in made
        if name in source.classes and named in source.ancestry(name) and _has_forward(source, name)
    ]
    if len(models) != 1:
        raise UnrecognisedError(
            head, f"auto_map.AutoModel names {named}, which has no forward, and {head.name} shows no other"
        )
    yield sources.config.swap("auto_map", "AutoModel", old=named, new=models[0])


def _has_forward(source: Source, name: str) -> bool:
    own = [source.classes[base] for base in source.ancestry(name) if base in source.classes]
    return any(method(base, "forward") for base in own)


RULE = Rule(
    id="auto-model",
    target="config",
    releases="all",
    cause="auto_map.AutoModel names a class without forward, so AutoModel.from_pretrained fails on every release.",
    before=(
        '{"auto_map": {"AutoModel": "modeling_opensci.OpensciPreTrainedModel", '
        '"AutoModelForCausalLM": "modeling_opensci.OpensciForCausalLM"}}'
    ),
    after=(
        '{"auto_map": {"AutoModel": "modeling_opensci.OpensciModel", '
        '"AutoModelForCausalLM": "modeling_opensci.OpensciForCausalLM"}}'
    ),
    edits=edits,
    others={
        "modeling": (
            "class OpensciPreTrainedModel(PreTrainedModel): ...\n"
            "\n"
            "class OpensciModel(OpensciPreTrainedModel):\n"
            "    def forward(self, input_ids): ...\n"
            "\n"
            "class OpensciForCausalLM(OpensciPreTrainedModel):\n"
            "    def __init__(self, config):\n"
            "        self.model = OpensciModel(config)\n"
        )
    },
)
