"""Initialise through `torch.nn.init`, which leaves loaded weights alone.

5.0 and 5.1 call `_init_weights` on every module after the checkpoint is loaded. A loaded weight
carries a mark that the functions of `torch.nn.init` respect there; writes to `.data` do not see it.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, method

_FUNCTIONS = {
    "normal_": "normal_",
    "uniform_": "uniform_",
    "zero_": "zeros_",
    "fill_": "constant_",
}


def edits(sources: Sources) -> Edits:
    """Replace in-place writes in every `_init_weights`."""
    source = sources.modeling
    for owner in source.classes.values():
        initializer = method(owner, "_init_weights")
        if initializer is None:
            continue
        written = set()
        for call in source.find(ast.Call, within=initializer):
            function = call.func
            if isinstance(function, ast.Attribute) and function.attr in _FUNCTIONS and not _is_init(source, call):
                yield _initialised(source, call, function)
                written.add(call)
        for data in source.find(ast.Attribute, within=initializer):
            if data.attr != "data" or written.intersection(source.parents(data)):
                continue
            call = source.enclosing(data, ast.Call)
            if call is None or not _is_init(source, call):
                raise UnrecognisedError(
                    data, "_init_weights writes to .data in a way that torch.nn.init has no name for"
                )
            yield source.replaced(data, source.before_dot(data))


def _initialised(source: Source, call: ast.Call, function: ast.Attribute) -> Edit:
    """Turn `weight.data.normal_(…)` into `nn.init.normal_(weight, …)`."""
    init = f"{_init_module(source, call)}.{_FUNCTIONS[function.attr]}"
    given = source.code(call)[source.end(function) - source.start(call) :].lstrip()[1:-1].strip()
    given = f", {given}" if given else ""
    written = function.value
    if isinstance(written, ast.Call):
        raise UnrecognisedError(call, "the write is part of a larger expression")
    if not isinstance(written, ast.Subscript):
        weight = _without_data(source, written) or source.before_dot(function)
        return source.replaced(call, f"{init}({weight}{given})")
    # A slice loses the mark of a loaded weight, so the mark is looked for on the whole.
    whole = written.value
    weight = _without_data(source, whole) or source.code(whole)
    part = weight + source.code(written)[source.end(whole) - source.start(written) :].lstrip(" )")
    line = source.enclosing(call, ast.stmt)
    if not isinstance(line, ast.Expr) or line.value is not call:
        raise UnrecognisedError(call, "the write to a slice is part of a larger expression")
    source.lines(line)
    guarded = (
        f'if not getattr({weight}, "_is_hf_initialized", False):  # a slice does not carry the mark itself\n'
        f"    {init}({part}{given})"
    )
    return source.replaced(call, source.fitted(guarded, source.indent(line)).strip())


def _without_data(source: Source, node: ast.expr) -> str | None:
    """Return what `.data` is taken from, or None where it is not."""
    return source.before_dot(node) if isinstance(node, ast.Attribute) and node.attr == "data" else None


def _is_init(source: Source, call: ast.Call) -> bool:
    return any(name.startswith("torch.nn.init.") for name in source.names(call.func))


def _init_module(source: Source, node: ast.Call) -> str:
    """Return how the file calls `torch.nn.init`."""
    for module, rest in (("torch.nn", ".init"), ("torch", ".nn.init")):
        if name := source.name_of(module):
            return name + rest
    raise UnrecognisedError(node, "the file imports neither torch nor torch.nn")


RULE = Rule(
    id="init-weights",
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
        "        if isinstance(module, nn.Embedding):\n"
        "            nn.init.normal_(module.weight, mean=0.0, std=0.02)\n"
        '            if not getattr(module.weight, "_is_hf_initialized", False):'
        "  # a slice does not carry the mark itself\n"
        "                nn.init.zeros_(module.weight[module.padding_idx])\n"
    ),
    trf=("TRF012", "TRF018"),
    signs=("_init_weights overwrote", "differs from the checkpoint"),
    edits=edits,
)
