"""Count positions from zero and add the cache's length.

From 5.4 to 5.12 a static cache gives its length as a tensor, which `torch.arange` takes neither as its
start nor as its end. The sum is the same integers.
"""

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import replace

_SUM = m.BinaryOperation(left=m.Name(), operator=m.Add())
_RANGE = m.Call(args=[m.Arg(value=m.Name(), keyword=None), m.Arg(value=_SUM, keyword=None), m.ZeroOrMore()])


def rewrite(sources: Sources) -> cst.Module | None:
    """Turn `torch.arange(length, length + count)` into `torch.arange(count) + length`."""
    tree = sources.modeling
    changes: dict = {}
    for call in tree.find(_RANGE):
        start, end, *others = call.args
        if start.value.value != end.value.left.value or "torch.arange" not in tree.names(call.func):
            continue
        counted = call.with_changes(args=[end.with_changes(value=end.value.right), *others])
        changes[call] = cst.BinaryOperation(left=counted, operator=cst.Add(), right=start.value)
    return replace(tree.module, changes) if changes else None


RULE = Rule(
    id="cache-length",
    target="modeling",
    releases="5.4 to 5.12",
    cause="A static cache gives its length as a tensor, which torch.arange does not take as start and end.",
    before="import torch\n\npositions = torch.arange(seen, seen + x.shape[1], device=x.device)\n",
    after="import torch\n\npositions = torch.arange(x.shape[1], device=x.device) + seen\n",
    trf=(),
    rewrite=rewrite,
)
