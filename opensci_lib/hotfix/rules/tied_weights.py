"""See that 5.3 ties the weights.

5.3 has a fault in `mark_tied_weights_as_initialized`: for a model with code of its own it drops every weight
to be tied from the missing ones, then takes it for loaded, and leaves it untied and empty. 5.4 keeps them, and
earlier releases hand over no record of what is missing. Who supports no 5.3 needs none of this.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import method

_KEYS = "_tied_weights_keys"
_NAME = "mark_tied_weights_as_initialized"
_METHOD = f"""\
def {_NAME}(self, *args):
    # transformers 5.3 drops those to be tied from what is missing, and leaves them empty
    super().{_NAME}(*map(copy.copy, args))
"""


def edits(sources: Sources) -> Edits:
    """Let each class that names tied weights leave them among the missing ones."""
    source = sources.modeling
    changed = False
    for owner in source.classes.values():
        for line in owner.body:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    if (
                        name == _KEYS
                        and line.value
                        and source.code(line.value) != "None"
                        and not method(owner, _NAME)
                    ):
                        changed = True
                        yield source.last_in(owner, _METHOD)
    if changed:
        yield from source.with_modules("copy")


_EXAMPLE = """\
from transformers import PreTrainedModel

class ForCausalLM(PreTrainedModel):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
"""

RULE = Rule(
    id="tied-weights",
    releases="5.3",
    cause="Of a model with its own code 5.3 takes weights to be tied for loaded, and leaves them untied and empty.",
    before=_EXAMPLE,
    after="import copy\n\n" + _EXAMPLE + "\n" + "".join(f"    {line}\n" for line in _METHOD.splitlines()),
    edits=edits,
)
