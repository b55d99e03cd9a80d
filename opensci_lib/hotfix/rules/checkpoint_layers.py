"""Derive the layers from `GradientCheckpointingLayer` where the release has it.

It exists from 4.52 on: a layer derived from it checkpoints itself. From 5.16 on the option `every_n_layers`
of gradient checkpointing counts such layers and no others. Before 4.52 the model goes on doing it.

A layer that is computed again must not write into a cache a second time, so such a layer is handed none: by the
name `past_key_values`, which is the only one that counts from 5.20 on.
"""

import ast
import re

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, is_docstring, method

_CONDITION = {"self.gradient_checkpointing", "self.training"}
_EARLIER, _CACHE = "past_key_value", "past_key_values"
_LAYER = "GradientCheckpointingLayer"
_IMPORT = f"""\
try:
    from transformers.modeling_layers import {_LAYER}
except ImportError:  # until transformers 4.51 the model checkpoints its layers itself
    {_LAYER} = {{module}}
"""


def edits(sources: Sources) -> Edits:
    """Give the layers the base class, and let the model checkpoint only those that do not do it themselves."""
    source = sources.modeling
    bases = {}
    for call in source.calls("self._gradient_checkpointing_func"):
        branch = source.enclosing(call, ast.If)
        if branch is not None and source.calls("hasattr", branch.test):
            continue
        test = branch.test if branch else None
        if branch is None or not isinstance(test, ast.BoolOp) or not isinstance(test.op, ast.And):
            raise UnrecognisedError(call, "layers are checkpointed on another condition than in transformers 4.48")
        if len(test.values) != 2 or {dotted(value) for value in test.values} != _CONDITION:
            raise UnrecognisedError(call, "layers are checkpointed on another condition than in transformers 4.48")
        name, plain = _plain_call(source, call, branch)
        asked = f'and not hasattr({name}, "gradient_checkpointing")'
        if source.is_too_wide(test, f" {asked}"):
            first, second = map(source.code, test.values)
            lines = source.fitted(f"    {first}\n    and {second}\n    {asked}\n)", source.indent(branch))
            yield source.replaced(test, f"({source.newline}{lines.rstrip()}")
        else:
            yield Edit(source.end(test), source.end(test), f" {asked}")
        layer, base = _class(source, call)
        bases[source.start(base)] = base
        yield from _with_later_name(source, plain, method(layer, "forward"))
    for base in bases.values():
        yield source.replaced(base, _LAYER)
    if bases:
        yield source.below_imports(_IMPORT.format(module=source.code(base)))


def _plain_call(source: Source, call: ast.Call, branch: ast.If) -> tuple[str, ast.Call]:
    """Return (name, call) of the layer that the model's loop checkpoints in one branch and calls in the other."""
    name, _, called = dotted(call.args[0]).rpartition(".") if call.args else ("", "", "")
    if called != "__call__" or "." in name or not name:
        raise UnrecognisedError(call, "something else than a layer is checkpointed")
    plain = [found for line in branch.orelse for found in source.calls(name, line)]
    # An input that needs gradients must be positional for reentrant checkpointing.
    if len(plain) != 1 or not plain[0].args or isinstance(plain[0].args[0], ast.Starred):
        raise UnrecognisedError(call, "the layer is not called with its input first where it is not checkpointed")
    return name, plain[0]


def _with_later_name(source: Source, plain: ast.Call, forward: Function | None) -> Edits:
    """Call the layer's cache `past_key_values`, where it is handed over by its earlier name."""
    given = [keyword for keyword in plain.keywords if keyword.arg == _EARLIER]
    if forward is None or not given or _EARLIER not in arguments(forward):
        return
    if _CACHE in arguments(forward):
        raise UnrecognisedError(forward, f"the layer takes both {_EARLIER} and {_CACHE}")
    names = [name for name in source.find(ast.Name, within=forward) if name.id == _EARLIER]
    for node in (*given, arguments(forward)[_EARLIER], *names):
        yield Edit(source.start(node), source.start(node) + len(_EARLIER), _CACHE)
    if is_docstring(forward.body[0]):
        start, end = source.start(forward.body[0]), source.end(forward.body[0])
        for found in re.finditer(rf"\b{_EARLIER}\b", source.text[start:end]):
            yield Edit(start + found.start(), start + found.end(), _CACHE)


def _class(source: Source, call: ast.Call) -> tuple[ast.ClassDef, ast.expr]:
    """Return the class that the model's layers are made of, and its base `torch.nn.Module`."""
    owner = source.enclosing(call, ast.ClassDef)
    lists = [
        node
        for node in (source.find(ast.Call, within=owner) if owner else [])
        if "torch.nn.ModuleList" in source.names(node.func)
    ]
    made = {dotted(node.func) for made in lists for node in source.find(ast.Call, within=made)}
    layers = [source.classes[name] for name in made if name in source.classes]
    bases = [base for layer in layers for base in layer.bases if "torch.nn.Module" in source.names(base)]
    if len(layers) != 1 or len(bases) != 1:
        raise UnrecognisedError(call, "the class of the checkpointed layers is not to be seen")
    return layers[0], bases[0]


_EXAMPLE = (
    "class Layer({base}):\n"
    "    def forward(self, x): ...\n"
    "\n"
    "class Model(nn.Module):\n"
    "    def __init__(self, config):\n"
    "        self.layers = nn.ModuleList([Layer() for _ in range(config.layers)])\n"
    "\n"
    "    def forward(self, x):\n"
    "        for layer in self.layers:\n"
    "            if self.gradient_checkpointing and self.training{condition}:\n"
    "                x = self._gradient_checkpointing_func(layer.__call__, x)\n"
    "            else:\n"
    "                x = layer(x)\n"
)

RULE = Rule(
    id="checkpoint-layers",
    releases="5.16 and later",
    cause=(
        "Gradient checkpointing of every n-th layer counts layers derived from GradientCheckpointingLayer: "
        "without any, all are checkpointed. From 5.20 on a cache handed over under its earlier name is written twice."
    ),
    before="from torch import nn\n\n" + _EXAMPLE.format(base="nn.Module", condition=""),
    after=(
        "from torch import nn\n\n"
        + _IMPORT.format(module="nn.Module")
        + "\n"
        + _EXAMPLE.format(base=_LAYER, condition=' and not hasattr(layer, "gradient_checkpointing")')
    ),
    trf=("TRF034",),
    edits=edits,
)
