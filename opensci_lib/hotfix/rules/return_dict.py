"""Read `config.return_dict`, not `config.use_return_dict`.

From 5.13 at the latest the second logs a warning, which `torch.compile(fullgraph=True)` can't trace.
Until 4.57 it also meant that TorchScript wants tuples.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, Function, Source, UnrecognisedError, dotted

_NAME = "use_return_dict"
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.Return, ast.Expr)
_SCOPES = (*FUNCTIONS, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_VALUE = '{config}.return_dict and not getattr({config}, "torchscript", False)'


def edits(sources: Sources) -> Edits:
    """Write out what the property computes."""
    source = sources.modeling
    for use in source.find(ast.Attribute):
        if use.attr == _NAME and dotted(use.value).rpartition(".")[2] == "config":
            yield from _written_out(source, use)


def _written_out(source: Source, use: ast.Attribute) -> Edits:
    """Compute it on a line above where that is the same, or else in place."""
    config, line = source.before_dot(use), source.enclosing(use, ast.stmt)
    value = _VALUE.format(config=config)
    if isinstance(line, _SIMPLE) and _may_be_above(source, use, line, config):
        yield source.before(line, f"{_NAME} = {value}")
        yield source.replaced(use, _NAME)
    else:
        yield source.replaced(use, f"({value})")


def _may_be_above(source: Source, use: ast.Attribute, line: ast.stmt, config: str) -> bool:
    """Say whether the line is one's own, the name free, and the value the same whatever else is computed there."""
    try:
        source.lines(line)
    except UnrecognisedError:
        return False
    scope = source.enclosing(use, *_SCOPES) or source.tree
    names = {node.id for node in source.find(ast.Name, within=scope)}
    return isinstance(scope, ast.Module | Function) and _NAME not in names and source.code(line).count(config) == 1


RULE = Rule(
    id="return-dict",
    releases="5.13 and later",
    cause="config.use_return_dict logs a warning of deprecation, which also breaks torch.compile(fullgraph=True).",
    before="return_dict = return_dict if return_dict is not None else self.config.use_return_dict\n",
    after=(
        'use_return_dict = self.config.return_dict and not getattr(self.config, "torchscript", False)\n'
        "return_dict = return_dict if return_dict is not None else use_return_dict\n"
    ),
    edits=edits,
)
