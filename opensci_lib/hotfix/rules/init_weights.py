"""Initialise through `torch.nn.init`, which leaves loaded weights alone.

5.0 and 5.1 call `_init_weights` on every module after the checkpoint is loaded. A loaded weight
carries a mark that the functions of `torch.nn.init` respect there; writes to `.data` do not see it.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, after_docstring, method, replace, statements

_FUNCTIONS = {
    "normal_": "normal_",
    "uniform_": "uniform_",
    "zero_": "zeros_",
    "fill_": "constant_",
}
_DATA = m.Attribute(attr=m.Name("data"))
_WRITE = m.Call(func=m.Attribute(attr=m.OneOf(*map(m.Name, _FUNCTIONS))))
_SUPER = m.Call(func=m.Attribute(value=m.Call(func=m.Name("super")), attr=m.Name("_init_weights")))


def rewrite(sources: Sources) -> cst.Module | None:
    """Replace in-place writes in every `_init_weights`, and let the library's own run first."""
    tree = sources.modeling
    changes: dict = {}
    for owner in tree.classes.values():
        initializer = method(owner, "_init_weights")
        if initializer is None:
            continue
        for call in tree.find(_WRITE, initializer):
            _replace_write(tree, call, changes)
        for data in tree.find(_DATA, initializer):
            if not any(parent in changes for parent in tree.parents(data)):
                if not _is_argument_of_init(tree, data):
                    raise UnrecognisedError(
                        data, "_init_weights writes to .data in a way that torch.nn.init has no name for"
                    )
                changes[data] = data.value
        if not tree.find(_SUPER, initializer) and len(initializer.params.params) == 2:
            name = initializer.params.params[1].name.value
            first = statements(f"super()._init_weights({name})\n", tree.module)
            changes[initializer.body] = lambda body, first=first: body.with_changes(body=after_docstring(body, first))
    return replace(tree.module, changes) if changes else None


def _replace_write(tree: Tree, call: Any, changes: dict) -> None:
    """Turn `weight.data.normal_(…)` into `nn.init.normal_(weight, …)`."""
    if any(full.startswith("torch.nn.init.") for full in tree.names(call.func)):
        return
    written, function = call.func.value, _FUNCTIONS[call.func.attr.value]
    arguments = "".join(
        f", {tree.code(argument.with_changes(comma=cst.MaybeSentinel.DEFAULT))}" for argument in call.args
    )
    init = _init_module(tree, call)
    if isinstance(written, cst.Subscript):
        # A slice loses the mark of a loaded weight, so the mark is looked for on the whole.
        weight = tree.code(_without_data(written.value))
        part = tree.code(written.with_changes(value=_without_data(written.value)))
        line = tree.enclosing(call, cst.SimpleStatementLine)
        if line is None or not m.matches(line, m.SimpleStatementLine(body=[m.Expr(value=m.Call())])):
            raise UnrecognisedError(call, "the write to a slice is part of a larger expression")
        [guarded] = statements(
            f'if not getattr({weight}, "_is_hf_initialized", False):  # a slice does not carry the mark itself\n'
            f"    {init}.{function}({part}{arguments})\n",
            tree.module,
        )
        changes[line] = guarded.with_changes(leading_lines=line.leading_lines)
    else:
        changes[call] = cst.parse_expression(
            f"{init}.{function}({tree.code(_without_data(written))}{arguments})", tree.module.config_for_parsing
        )


def _without_data(node: cst.BaseExpression) -> cst.BaseExpression:
    return node.value if isinstance(node, cst.Attribute) and node.attr.value == "data" else node


def _init_module(tree: Tree, node: cst.CSTNode) -> str:
    """Return how the file calls `torch.nn.init`."""
    for module, rest in (("torch.nn", ".init"), ("torch", ".nn.init")):
        if name := tree.name_of(module):
            return name + rest
    raise UnrecognisedError(node, "the file imports neither torch nor torch.nn")


def _is_argument_of_init(tree: Tree, node: cst.CSTNode) -> bool:
    call = tree.enclosing(node, cst.Call)
    return isinstance(call, cst.Call) and any(full.startswith("torch.nn.init.") for full in tree.names(call.func))


RULE = Rule(
    id="init-weights",
    target="modeling",
    releases="5.0 and 5.1",
    cause=(
        "5.0 and 5.1 run _init_weights on every module after loading; writes to .data do not see that "
        "a weight is loaded, so most of the checkpoint is overwritten with random numbers."
    ),
    before=(
        "from torch import nn\n"
        "\n"
        "class Base(PreTrainedModel):\n"
        "    def _init_weights(self, module):\n"
        "        if isinstance(module, nn.Embedding):\n"
        "            module.weight.data.normal_(mean=0.0, std=0.02)\n"
        "            module.weight.data[module.padding_idx].zero_()\n"
    ),
    after=(
        "from torch import nn\n"
        "\n"
        "class Base(PreTrainedModel):\n"
        "    def _init_weights(self, module):\n"
        "        super()._init_weights(module)\n"
        "        if isinstance(module, nn.Embedding):\n"
        "            nn.init.normal_(module.weight, mean=0.0, std=0.02)\n"
        '            if not getattr(module.weight, "_is_hf_initialized", False):'
        "  # a slice does not carry the mark itself\n"
        "                nn.init.zeros_(module.weight[module.padding_idx])\n"
    ),
    trf=("TRF012", "TRF018"),
    signs=("_init_weights overwrote",),
    rewrite=rewrite,
)
