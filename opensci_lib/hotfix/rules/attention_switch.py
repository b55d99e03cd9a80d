"""Let `model.set_attn_implementation` do what it says.

It exists from 4.54 on and first asks the class whether it may. Until 5.0 the answer is whether the file
subscripts `ALL_ATTENTION_FUNCTIONS`, from 5.1 on whether it calls that object's method `get_interface`,
which older releases lack. Where each layer looks its attention up as it runs, the answer is yes.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, UnrecognisedError

_TABLE = "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS"
_BASE = {"transformers.PreTrainedModel", "transformers.modeling_utils.PreTrainedModel"}
_ANSWER = "_can_set_attn_implementation"
_LINE = f"""\
{_ANSWER} = classmethod(lambda cls: True)  # 5.1 on looks for a call that older ones lack
"""


def edits(sources: Sources) -> Edits:
    """Answer for each model of the file, where the layers look their attention up as they run."""
    source = sources.modeling
    uses = [node for node in source.find(ast.Subscript) if _TABLE in source.names(node.value)]
    if not uses or any(node.attr == "get_interface" for node in source.find(ast.Attribute)):
        return
    for owner in source.classes.values():
        if _ANSWER in source.code(owner) or not any(source.names(base) & _BASE for base in owner.bases):
            continue
        for use in uses:
            function = source.enclosing(use, *FUNCTIONS)
            if function is None or function.name == "__init__":
                raise UnrecognisedError(use, "the attention function is chosen before the model runs")
        yield source.attribute(owner, _LINE)


_EXAMPLE = (
    "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel\n"
    "\n"
    "class Attention:\n"
    "    def forward(self, x):\n"
    "        return ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation](self, x)\n"
    "\n"
    "class Base(PreTrainedModel):\n"
    "    _supports_sdpa = True\n"
)

RULE = Rule(
    id="attention-switch",
    releases="5.1 and later",
    cause=(
        "model.set_attn_implementation changes nothing but logs a warning: the file lacks a call that it looks for."
    ),
    before=_EXAMPLE,
    after=_EXAMPLE + f"    {_LINE}",
    signs=("does not support setting its attention implementation dynamically",),
    edits=edits,
)
