"""Let the configuration itself say what `use_return_dict` is.

From 5.4 on the library's property logs a warning, which `torch.compile(fullgraph=True)` can't trace.
Until 4.57 it also meant that TorchScript wants tuples.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import dotted

_NAME = "use_return_dict"
_PROPERTY = f"""\
# the library's own logs a warning from transformers 5.4 on
{_NAME} = property(lambda self: self.return_dict and not getattr(self, "torchscript", False))
"""


def edits(sources: Sources) -> Edits:
    """Define the property where the model reads it, as releases do before the warning."""
    uses = [use for use in sources.modeling.find(ast.Attribute) if use.attr == _NAME]
    source = sources.configuration
    if source is None or not any(dotted(use.value).rpartition(".")[2] == "config" for use in uses):
        return
    for owner in source.classes.values():
        bases = {name.rpartition(".")[2] for base in owner.bases for name in source.names(base)}
        if bases & {"PretrainedConfig", "PreTrainedConfig"} and _NAME not in source.code(owner):
            yield source.attribute(owner, _PROPERTY)


_EXAMPLE = (
    "from transformers import PretrainedConfig\n"
    "\n"
    "class Config(PretrainedConfig):\n"
    "{added}    def __init__(self, **kwargs):\n"
    "        super().__init__(**kwargs)\n"
)

RULE = Rule(
    id="return-dict",
    target="configuration",
    releases="5.4 and later",
    cause="config.use_return_dict logs a warning of deprecation, which also breaks torch.compile(fullgraph=True).",
    before=_EXAMPLE.format(added=""),
    after=_EXAMPLE.format(added="".join(f"    {line}\n" for line in _PROPERTY.splitlines()) + "\n"),
    edits=edits,
    others={"modeling": "return_dict = return_dict if return_dict is not None else self.config.use_return_dict\n"},
)
