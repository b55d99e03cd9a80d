"""Build a module once more to fill the buffers that loading leaves empty.

What `rope-buffer` does for one buffer that is computed from the configuration, in general: tables of cosines and
sines, masks, several buffers, or numbers that only `__init__` was given. The module keeps what it was built from, and
`_init_weights` builds another one to take the buffers from.
"""

import ast
import textwrap

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.rules import rope_buffer
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, is_docstring, method

_KEPT = "_built_from"
_METHOD = "def _init_weights(self, module):\n    super()._init_weights(module)\n"
_RESET = f"""\
if isinstance({{module}}, {{owner}}):  # transformers 5 leaves buffers uninitialised after loading
    for name, buffer in type({{module}})(**{{module}}.{_KEPT}).named_buffers(recurse=False):
        if name in {{module}}._non_persistent_buffers_set:
            getattr({{module}}, name).copy_(buffer)
"""


def edits(sources: Sources) -> Edits:
    """Keep the arguments of each class with such buffers, and of those that derive from it."""
    source = sources.modeling
    owners = [owner for owner in source.classes.values() if _loses_buffers(source, owner)]
    for owner in owners:
        if any(name.endswith("PreTrainedModel") for name in source.ancestry(owner.name)):
            raise UnrecognisedError(owner, f"{owner.name}, a whole model, has buffers that are not in the checkpoint")
    names = {owner.name for owner in owners}
    kept = 0
    for owner in source.classes.values():
        initializer = method(owner, "__init__")
        if initializer and names.intersection(source.ancestry(owner.name)) and _KEPT not in source.code(initializer):
            yield source.after(initializer.body[-1], f"self.{_KEPT} = {_arguments(source, initializer)}")
            kept += 1
    if kept:
        roots = [owner for owner in owners if not names.intersection(source.ancestry(owner.name)[1:])]
        yield _reset(source, roots)


def _loses_buffers(source: Source, owner: ast.ClassDef) -> bool:
    built = _called_by_init(source, owner)
    calls = [
        call
        for call in source.calls("self.register_buffer", owner)
        if not rope_buffer.is_saved(call) and _method_around(source, call, owner) in built
    ]
    return bool(calls) and method(owner, "__init__") is not None and not rope_buffer.knows(source, owner)


def _called_by_init(source: Source, owner: ast.ClassDef) -> set[str]:
    """Return what `__init__` may call, by name: what others register is not there yet when a model is loaded."""
    family = [source.classes[name] for name in source.ancestry(owner.name) if name in source.classes]
    found, waiting = set(), {"__init__"}
    while waiting:
        found |= waiting
        bodies = [body for name in waiting for one in family if (body := method(one, name)) is not None]
        waiting = {use.attr for body in bodies for use in source.find(ast.Attribute, within=body)} - found
    return found


def _method_around(source: Source, call: ast.Call, owner: ast.ClassDef) -> str | None:
    functions = [node.name for node in source.parents(call) if isinstance(node, Function) and node in owner.body]
    return functions[0] if functions else None


def _reset(source: Source, refilled: list[ast.ClassDef]) -> Edit:
    """Let `_init_weights` of the file's PreTrainedModel class fill the buffers of the classes given."""
    owner = rope_buffer.library_model(source, refilled[0])
    existing = method(owner, "_init_weights")
    names = list(arguments(existing)) if existing else ["self", "module"]
    if existing and len(names) != 2:
        raise UnrecognisedError(existing, "_init_weights does not take (self, module)")
    if existing is None and any(rope_buffer.knows(source, other) for other in source.classes.values()):
        raise UnrecognisedError(owner, "it has no _init_weights, and buffers of two kinds to be filled there")
    resets = "".join(_RESET.format(module=names[1], owner=one.name) for one in refilled)
    if existing is None:
        return source.last_in(owner, _METHOD + textwrap.indent(resets, "    "))
    # First of all, as what follows may return early, but after the library's own.
    opening = existing.body[: 1 + is_docstring(existing.body[0])][-1]
    own = source.calls("super()._init_weights", opening) if isinstance(opening, ast.Expr) else []
    return source.after(opening, resets) if own else source.first_in(existing, resets)


def _arguments(source: Source, initializer: Function) -> str:
    """Return the arguments of `__init__` as a dictionary, as which they can be given again."""
    given = initializer.args
    if given.vararg or given.posonlyargs:
        raise UnrecognisedError(initializer, "buffers are computed in an __init__ with arguments that have no name")
    names = [*list(arguments(initializer))[1:], *(argument.arg for argument in given.kwonlyargs)]
    rest = [given.kwarg.arg] if given.kwarg else []
    for node in source.find(ast.Name, within=initializer):
        if isinstance(node.ctx, ast.Store) and node.id in (*names, *rest):
            raise UnrecognisedError(node, f"buffers are computed in an __init__ that changes its argument {node.id}")
    for node in source.find(ast.Return, within=initializer):
        raise UnrecognisedError(node, "buffers are computed in an __init__ that may return early")
    items = [*(f'"{name}": {name}' for name in names), *(f"**{name}" for name in rest)]
    line = "{" + ", ".join(items) + "}"
    return line if len(line) < 80 else "{\n" + "".join(f"    {item},\n" for item in items) + "}"


RULE = Rule(
    id="lost-buffers",
    releases="5.0 and later",
    cause=(
        "The same of other buffers that are not in the checkpoint, such as tables of cosines and sines, and of "
        "those computed from what only __init__ is given."
    ),
    before=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class RotaryEmbedding(nn.Module):\n"
        "    def __init__(self, dim, base=10000):\n"
        "        super().__init__()\n"
        "        self.register_buffer('cos_cached', table(dim, base).cos(), persistent=False)\n"
        "        self.register_buffer('sin_cached', table(dim, base).sin(), persistent=False)\n"
        "\n"
        "class Base(PreTrainedModel):\n"
        "    def _init_weights(self, module):\n"
        "        pass\n"
    ),
    after=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class RotaryEmbedding(nn.Module):\n"
        "    def __init__(self, dim, base=10000):\n"
        "        super().__init__()\n"
        "        self.register_buffer('cos_cached', table(dim, base).cos(), persistent=False)\n"
        "        self.register_buffer('sin_cached', table(dim, base).sin(), persistent=False)\n"
        '        self._built_from = {"dim": dim, "base": base}\n'
        "\n"
        "class Base(PreTrainedModel):\n"
        "    def _init_weights(self, module):\n"
        + "".join(
            f"        {line}\n" for line in _RESET.format(module="module", owner="RotaryEmbedding").splitlines()
        )
        + "        pass\n"
    ),
    trf=("TRF018",),
    signs=("cos_cached holds", "sin_cached holds"),
    edits=edits,
)
