"""Do without `get_head_mask`, which a model inherited until 4.57.

Without a mask of attention heads it gave None for each layer. With one, the rewrite says that the release has none.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, method

_NAME = "_head_mask"
_FUNCTION = f'''
def {_NAME}(model, mask, layers):
    """Return a mask of attention heads for each layer, which is None from transformers 5 on."""
    if hasattr(model, "get_head_mask"):
        return model.get_head_mask(mask, layers)
    if mask is not None:
        raise NotImplementedError("transformers 5 has no masks of attention heads.")
    return [None] * layers
'''


def edits(sources: Sources) -> Edits:
    """Call a function in place of the method, in a file that does not define it."""
    source = sources.modeling
    if any(method(owner, "get_head_mask") for owner in source.classes.values()):
        return
    calls = source.calls("self.get_head_mask")
    for call in calls:
        if len(call.args) != 2 or call.keywords or any(isinstance(given, ast.Starred) for given in call.args):
            raise UnrecognisedError(call, "get_head_mask is given something else than a mask and a number of layers")
        mask, layers = map(source.code, call.args)
        yield source.replaced(call, f"{_NAME}(self, {mask}, {layers})")
    if calls:
        yield source.below_imports(_FUNCTION)


_EXAMPLE = """\
from transformers import PreTrainedModel
{function}
class Model(PreTrainedModel):
    def forward(self, x, head_mask=None):
        head_mask = {call}
"""

RULE = Rule(
    id="head-mask",
    releases="5.0 and later",
    cause="A model no longer inherits get_head_mask().",
    before=_EXAMPLE.format(function="", call="self.get_head_mask(head_mask, 2)"),
    after=_EXAMPLE.format(function=f"\n{_FUNCTION}", call="_head_mask(self, head_mask, 2)"),
    signs=("has no attribute 'get_head_mask'",),
    edits=edits,
)
