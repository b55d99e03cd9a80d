"""Count positions from zero and add the cache's length.

From 5.4 to 5.12 a static cache gives its length as a tensor, which `torch.arange` takes neither as its
start nor as its end. The sum is the same integers.
"""

import ast
import re

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import WIDTH, Source

#: Where the sum may stand without parentheses.
_LOOSE = (ast.Assign, ast.AnnAssign, ast.Return, ast.Expr, ast.keyword)


def edits(sources: Sources) -> Edits:
    """Turn `torch.arange(length, length + count)` into `torch.arange(count) + length`."""
    source = sources.modeling
    for call in source.find(ast.Call):
        match call.args:
            case [ast.Name(id=start), ast.BinOp(left=ast.Name(id=length), op=ast.Add()) as end] if start == length:
                if "torch.arange" in source.names(call.func):
                    yield _counted(source, call, end)


def _counted(source: Source, call: ast.Call, end: ast.BinOp) -> Edit:
    start, plus = source.start(call), source.text.index("+", source.end(end.left))
    opening, rest = source.text[start : source.start(call.args[0])], source.text[plus + 1 : source.end(call)].lstrip()
    added = f" + {source.code(end.left)}"
    flat = opening.rstrip() + re.sub(r"\s*\n\s*", " ", rest).replace(" )", ")")
    is_short = source.column(call) + len(flat + added) <= WIDTH
    # comments and a last comma ask for the lines that are there
    text = flat if is_short and not re.search(r"#|,\s*\)$|[\"']", rest) else opening + rest
    parent = next(source.parents(call))
    is_loose = isinstance(parent, _LOOSE) or (isinstance(parent, ast.Call) and call in parent.args)
    return source.replaced(call, text + added if is_loose else f"({text}{added})")


RULE = Rule(
    id="cache-length",
    releases="5.4 to 5.12",
    cause="A static cache gives its length as a tensor, which torch.arange does not take as start and end.",
    before="import torch\n\npositions = torch.arange(seen, seen + x.shape[1], device=x.device)\n",
    after="import torch\n\npositions = torch.arange(x.shape[1], device=x.device) + seen\n",
    edits=edits,
)
