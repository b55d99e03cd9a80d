"""Point `auto_map.AutoModel` at the model itself.

The published config.json names the abstract base class there, which has no `forward`, so
`AutoModel.from_pretrained` never worked, on any release.
"""

from typing import Any

import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, method


def rewrite(sources: Sources) -> dict[str, Any] | None:
    """Name the class that the causal language model builds on, if the one named has no `forward`."""
    tree, auto_map = sources.modeling, sources.config.get("auto_map", {})
    reference = auto_map.get("AutoModel")
    if reference is None or "AutoModelForCausalLM" not in auto_map:
        return None
    module, _, named = reference.rpartition(".")
    if named not in tree.classes or _has_forward(tree, named):
        return None
    head = tree.classes[auto_map["AutoModelForCausalLM"].rpartition(".")[2]]
    models = [
        name
        for node in tree.find(m.Call(func=m.Name()), method(head, "__init__"))
        if (name := node.func.value) in tree.classes and named in tree.ancestry(name) and _has_forward(tree, name)
    ]
    if len(models) != 1:
        raise UnrecognisedError(
            head, f"auto_map.AutoModel names {named}, which has no forward, and {head.name.value} shows no other"
        )
    return {**sources.config, "auto_map": {**auto_map, "AutoModel": f"{module}.{models[0]}"}}


def _has_forward(tree: Tree, name: str) -> bool:
    own = [base for base in tree.ancestry(name) if base in tree.classes]
    return any(method(tree.classes[base], "forward") for base in own)


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
    trf=(),
    rewrite=rewrite,
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
