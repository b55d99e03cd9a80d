"""Compute the rotary buffer again after loading.

From 5.0 on a model is built on the meta device and every buffer that is not in the checkpoint is
replaced by `torch.empty_like`: uninitialised memory, which may be zero, garbage, or right by luck,
so that looking at it decides nothing. Only `_init_weights` can fill it.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, method, replace, statements

_NAME = "reset_inv_freq"
_BUFFER = m.Call(
    func=m.Attribute(value=m.Name("self"), attr=m.Name("register_buffer")),
    args=[m.Arg(value=m.SimpleString()), m.Arg(value=m.Name()), m.ZeroOrMore()],
)
_ANY_BUFFER = m.Call(func=m.Attribute(value=m.Name("self"), attr=m.Name("register_buffer")))
_DOCSTRING = m.SimpleStatementLine(body=[m.Expr(value=m.SimpleString() | m.ConcatenatedString())])
_SUPER = m.SimpleStatementLine(
    body=[m.Expr(value=m.Call(func=m.Attribute(value=m.Call(func=m.Name("super")), attr=m.Name("_init_weights"))))]
)
_NOT_SAVED = m.Arg(keyword=m.Name("persistent"), value=m.Name("False"))


def rewrite(sources: Sources) -> cst.Module | None:
    """Move the computation from `__init__` to a method that `_init_weights` calls as well."""
    tree = sources.modeling
    changes: dict = {}
    refilled = []
    for owner in tree.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None or method(owner, _NAME):
            continue
        for call in tree.find(_ANY_BUFFER, initializer):
            if any(m.matches(argument, _NOT_SAVED) for argument in call.args):
                _move(tree, owner, initializer, call, changes)
                refilled.append(owner.name.value)
    if refilled:
        _call(tree, refilled, changes)
    return replace(tree.module, changes) if changes else None


def _move(tree: Tree, owner: cst.ClassDef, initializer: Any, call: Any, changes: dict) -> None:
    """Move the statements of `__init__` from the buffer's computation to its last use into a method."""
    if not m.matches(call, _BUFFER) or call.args[0].value.evaluated_value != "inv_freq":
        raise UnrecognisedError(
            call, "a buffer other than inv_freq is not in the checkpoint and must be computed again"
        )
    if initializer in changes:
        raise UnrecognisedError(call, "inv_freq is registered twice")
    local = call.args[1].value.value
    body: list[Any] = list(initializer.body.body)
    uses = [i for i, line in enumerate(body) if tree.find(m.Name(local) | m.Attribute(attr=m.Name("inv_freq")), line)]
    first, last = uses[0], uses[-1]
    moved = body[first : last + 1]
    block = cst.Module(body=moved)
    free = _free_names(tree, initializer, moved)
    preamble = ""
    if "config" in free:
        if "self.config = config" not in tree.code(cst.Module(body=body[:first])):
            raise UnrecognisedError(call, "inv_freq is computed from a config that the module does not keep")
        preamble = "    config = self.config\n"
    if unknown := free - {"self", "device", "config"}:
        raise UnrecognisedError(
            call, f"inv_freq is computed from names that only __init__ has: {', '.join(sorted(unknown))}"
        )
    [added] = statements(
        f"def {_NAME}(self, device=None):\n"
        '    """Compute inv_freq; transformers 5 leaves it uninitialised after loading."""\n'
        f"{preamble}    pass\n",
        tree.module,
    )
    lines = [*added.body.body[:-1], moved[0].with_changes(leading_lines=[]), *block.body[1:]]
    added = added.with_changes(body=added.body.with_changes(body=lines), leading_lines=[cst.EmptyLine(indent=False)])
    device = "device" if any(p.name.value == "device" for p in initializer.params.params) else ""
    [reset] = statements(f"self.{_NAME}({device})\n", tree.module)
    kept = [*body[:first], reset.with_changes(leading_lines=moved[0].leading_lines), *body[last + 1 :]]
    new = initializer.with_changes(body=initializer.body.with_changes(body=kept))
    changes[initializer] = [new, added]


def _free_names(tree: Tree, initializer: cst.FunctionDef, moved: list) -> set[str]:
    """Return the names that `moved` reads and that `__init__` binds, as arguments or before."""
    bound = {parameter.name.value for parameter in initializer.params.params}
    read, made = set(), set()
    for line in initializer.body.body:
        targets = tree.find(m.AssignTarget(target=m.Name() | m.Tuple()), line)
        names = {node.value for target in targets for node in tree.find(m.Name(), target) if node.value != "self"}
        names &= {node.value for node in tree.find(m.Name(), line)}
        if line in moved:
            read |= {node.value for node in tree.find(m.Name(), line) if _is_value(tree, node)} - made
            made |= names
        else:
            bound |= names
    return read & bound


def _is_value(tree: Tree, node: cst.Name) -> bool:
    """Say whether a name is a variable, and not an attribute's name or a keyword."""
    parent = next(iter(tree.parents(node)))
    if isinstance(parent, cst.Attribute):
        return parent.value is node
    return not (isinstance(parent, cst.Arg) and parent.keyword is node)


def _call(tree: Tree, refilled: list[str], changes: dict) -> None:
    """Let `_init_weights` of the file's PreTrainedModel class reset the classes given."""
    owners = [owner for name, owner in tree.classes.items() if _is_pretrained_base(tree, name)]
    if len(owners) != 1:
        raise UnrecognisedError(
            tree.classes[refilled[0]], f"{len(owners)} classes derive from PreTrainedModel directly"
        )
    existing = method(owners[0], "_init_weights")
    if existing is None:
        [added] = statements("def _init_weights(self, module):\n    super()._init_weights(module)\n", tree.module)
        added = added.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        block = owners[0].body
    else:
        added, block = existing, existing.body
    names = [parameter.name.value for parameter in added.params.params]
    if len(names) != 2 or not isinstance(block, cst.IndentedBlock):
        raise UnrecognisedError(added, "_init_weights does not take (self, module)")
    module = names[1]
    resets = [
        statement
        for name in refilled
        for statement in statements(
            f"if isinstance({module}, {name}):\n"
            f"    device = {module}.inv_freq.device\n"
            f"    {module}.{_NAME}()  # on the CPU, as at construction: a GPU may round otherwise\n"
            f"    {module}.to(device)\n",
            tree.module,
        )
    ]
    if existing is None:
        added = added.with_changes(body=added.body.with_changes(body=[*added.body.body, *resets]))
        changes[block] = lambda updated: updated.with_changes(body=[*updated.body, added])
    else:
        # First of all: what follows may return early.
        changes[block] = lambda updated: updated.with_changes(body=_after_opening(list(updated.body), resets))


def _after_opening(lines: list, added: list) -> list:
    """Insert statements below a docstring and the call of the library's own `_init_weights`."""
    count = 0
    while count < len(lines) and m.matches(lines[count], _DOCSTRING | _SUPER):
        count += 1
    return [*lines[:count], *added, *lines[count:]]


def _is_pretrained_base(tree: Tree, name: str) -> bool:
    bases = [full for base in tree.classes[name].bases for full in tree.names(base.value)]
    return any(base.startswith("transformers.") and base.endswith(".PreTrainedModel") for base in bases)


RULE = Rule(
    id="rope-buffer",
    target="modeling",
    releases="5.0 and later",
    cause=(
        "From 5.0 on buffers that are not in the checkpoint are uninitialised memory after loading, "
        "so the rotary embedding rotates by garbage and the model is fluent but wrong."
    ),
    before=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class RotaryEmbedding(nn.Module):\n"
        "    def __init__(self, config, device=None):\n"
        "        self.config = config\n"
        "        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)\n"
        '        self.register_buffer("inv_freq", inv_freq, persistent=False)\n'
        "\n"
        "class Base(PreTrainedModel):\n"
        "    def _init_weights(self, module):\n"
        "        pass\n"
    ),
    after=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class RotaryEmbedding(nn.Module):\n"
        "    def __init__(self, config, device=None):\n"
        "        self.config = config\n"
        "        self.reset_inv_freq(device)\n"
        "\n"
        "    def reset_inv_freq(self, device=None):\n"
        '        """Compute inv_freq; transformers 5 leaves it uninitialised after loading."""\n'
        "        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)\n"
        '        self.register_buffer("inv_freq", inv_freq, persistent=False)\n'
        "\n"
        "class Base(PreTrainedModel):\n"
        "    def _init_weights(self, module):\n"
        "        if isinstance(module, RotaryEmbedding):\n"
        "            device = module.inv_freq.device\n"
        "            module.reset_inv_freq()  # on the CPU, as at construction: a GPU may round otherwise\n"
        "            module.to(device)\n"
        "        pass\n"
    ),
    trf=("TRF018",),
    signs=("inv_freq holds",),
    rewrite=rewrite,
)
