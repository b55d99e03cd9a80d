"""Derive the layers from `GradientCheckpointingLayer` where the release has it.

It exists from 4.52 on: a layer derived from it checkpoints itself. From 5.16 on the option `every_n_layers`
of gradient checkpointing counts such layers and no others. Before 4.52 the model goes on doing it.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, replace, statements

_CHECKPOINTING = m.Call(func=m.Attribute(value=m.Name("self"), attr=m.Name("_gradient_checkpointing_func")))
_FLAG = m.Attribute(value=m.Name("self"), attr=m.Name("gradient_checkpointing"))
_TRAINING = m.Attribute(value=m.Name("self"), attr=m.Name("training"))
_CONDITION = m.BooleanOperation(left=_FLAG, operator=m.And(), right=_TRAINING) | m.BooleanOperation(
    left=_TRAINING, operator=m.And(), right=_FLAG
)
_LAYER = "GradientCheckpointingLayer"
_IMPORT = f"""\
try:
    from transformers.modeling_layers import {_LAYER}
except ImportError:  # until transformers 4.51 the model checkpoints its layers itself
    {_LAYER} = {{module}}
"""
_TOP_LEVEL_IMPORT = m.SimpleStatementLine(body=[m.Import() | m.ImportFrom()])


def rewrite(sources: Sources) -> cst.Module | None:
    """Give the layers the base class, and let the model checkpoint only those that do not do it themselves."""
    tree = sources.modeling
    changes: dict = {}
    for call in tree.find(_CHECKPOINTING):
        branch = tree.enclosing(call, cst.If)
        if branch is not None and tree.find(m.Call(func=m.Name("hasattr")), branch.test):
            continue
        if branch is None or not m.matches(branch.test, _CONDITION):
            raise UnrecognisedError(call, "layers are checkpointed on another condition than in transformers 4.48")
        name = _layer(tree, call, branch)
        base = _base(tree, call)
        changes[base.value] = cst.Name(_LAYER)
        asked = cst.parse_expression(f'not hasattr({name}, "gradient_checkpointing")')
        changes[branch.test] = lambda test, asked=asked: cst.BooleanOperation(test, cst.And(), asked)
        module = tree.code(base.value)
    if not changes:
        return None
    imports = [line for line in tree.module.body if m.matches(line, _TOP_LEVEL_IMPORT)]
    changes[imports[-1]] = lambda line: [line, *statements(_IMPORT.format(module=module), tree.module)]
    return replace(tree.module, changes)


def _layer(tree: Tree, call: cst.Call, branch: cst.If) -> str:
    """Return what the model's loop calls the layer that it checkpoints in one branch and calls in the other."""
    called: Any = call.args[0].value if call.args else call
    if not m.matches(called, m.Attribute(value=m.Name(), attr=m.Name("__call__"))):
        raise UnrecognisedError(call, "something else than a layer is checkpointed")
    name = tree.code(called.value)
    plain = tree.find(m.Call(func=m.Name(name)), branch.orelse) if branch.orelse else []
    # An input that needs gradients must be positional for reentrant checkpointing.
    if len(plain) != 1 or not plain[0].args or plain[0].args[0].keyword or plain[0].args[0].star:
        raise UnrecognisedError(call, "the layer is not called with its input first where it is not checkpointed")
    return name


def _base(tree: Tree, call: cst.Call) -> Any:
    """Return the base `torch.nn.Module` of the class that the model's layers are made of."""
    owner = tree.enclosing(call, cst.ClassDef)
    lists = [] if owner is None else [node for node in tree.find(m.Call(), owner) if _makes_a_list(tree, node)]
    made = {tree.code(node.func) for made in lists for node in tree.find(m.Call(func=m.Name()), made)}
    layers = [tree.classes[name] for name in made if name in tree.classes]
    bases = [base for layer in layers for base in layer.bases if "torch.nn.Module" in tree.names(base.value)]
    if len(layers) != 1 or len(bases) != 1:
        raise UnrecognisedError(call, "the class of the checkpointed layers is not to be seen")
    return bases[0]


def _makes_a_list(tree: Tree, call: cst.Call) -> bool:
    return "torch.nn.ModuleList" in tree.names(call.func)


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
    target="modeling",
    releases="5.16 and later",
    cause=(
        "Gradient checkpointing of every n-th layer counts layers derived from GradientCheckpointingLayer: "
        "without any, all are checkpointed."
    ),
    before="from torch import nn\n\n" + _EXAMPLE.format(base="nn.Module", condition=""),
    after=(
        "from torch import nn\n"
        + _IMPORT.format(module="nn.Module")
        + "\n"
        + _EXAMPLE.format(base=_LAYER, condition=' and not hasattr(layer, "gradient_checkpointing")')
    ),
    trf=("TRF034",),
    rewrite=rewrite,
)
