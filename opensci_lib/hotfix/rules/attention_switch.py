"""Let `model.set_attn_implementation` do what it says.

It exists from 4.54 on and first asks the class whether it may. Until 5.0 the answer is whether the file
subscripts `ALL_ATTENTION_FUNCTIONS`, from 5.1 on whether it calls that object's method `get_interface`,
which older releases lack. Where each layer looks its attention up as it runs, the answer is yes.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, method, replace, statements

_TABLE = "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS"
_BASE = {"transformers.PreTrainedModel", "transformers.modeling_utils.PreTrainedModel"}
_ANSWER = "_can_set_attn_implementation"
_METHOD = f"""\
@classmethod
def {_ANSWER}(cls):
    return True  # transformers 5.1 and later look for a call that older releases do not have
"""


def rewrite(sources: Sources) -> cst.Module | None:
    """Answer for each model of the file, where the layers look their attention up as they run."""
    tree = sources.modeling
    uses = [node for node in tree.find(m.Subscript()) if _TABLE in tree.names(node.value)]
    if not uses or tree.find(m.Attribute(attr=m.Name("get_interface"))):
        return None
    changes: dict = {}
    for owner in tree.classes.values():
        if any(tree.names(base.value) & _BASE for base in owner.bases) and method(owner, _ANSWER) is None:
            changes[owner.body] = _with_answer(tree)
    for use in uses if changes else []:
        function = tree.enclosing(use, cst.FunctionDef)
        if function is None or function.name.value == "__init__":
            raise UnrecognisedError(use, "the attention function is chosen before the model runs")
    return replace(tree.module, changes) if changes else None


def _with_answer(tree: Tree) -> Any:
    [answer] = statements(_METHOD, tree.module)
    answer = answer.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    return lambda body: body.with_changes(body=[*body.body, answer])


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
    target="modeling",
    releases="5.1 and later",
    cause=(
        "model.set_attn_implementation changes nothing but logs a warning: the file lacks a call that it looks for."
    ),
    before=_EXAMPLE,
    after=_EXAMPLE + "\n" + "".join(f"    {line}\n" for line in _METHOD.splitlines()),
    trf=(),
    signs=("does not support setting its attention implementation dynamically",),
    rewrite=rewrite,
)
