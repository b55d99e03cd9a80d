"""Compute the rotary buffer again after loading.

From 5.0 on a model is built on the meta device and every buffer that is not in the checkpoint is
replaced by `torch.empty_like`: uninitialised memory, which may be zero, garbage, or right by luck,
so that looking at it decides nothing. Only `_init_weights` can fill it.
"""

import ast
import textwrap

from opensci_lib.hotfix.edit import Edit, Move
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, is_docstring, method

_NAME = "reset_inv_freq"
_HEADING = f"""
def {_NAME}(self, device=None):
    \"""Compute inv_freq; transformers 5 leaves it uninitialised after loading.\"""
"""
_METHOD = "def _init_weights(self, module):\n    super()._init_weights(module)\n"
_RESET = f"""\
if isinstance({{module}}, {{owner}}):
    device = {{module}}.inv_freq.device
    {{module}}.{_NAME}()  # on the CPU, as at construction: a GPU may round otherwise
    {{module}}.to(device)
"""


def edits(sources: Sources) -> Edits:
    """Move the computation from `__init__` to a method that `_init_weights` calls as well."""
    source = sources.modeling
    refilled = {
        owner.name: move for owner in source.classes.values() if isinstance(move := _move(source, owner), Move)
    }
    yield from refilled.values()
    if refilled:
        yield reset(source, [source.classes[name] for name in refilled], _RESET)


def knows(source: Source, owner: ast.ClassDef) -> bool:
    """Say whether a class has one buffer to be computed again, in a form that this rule rewrites or has rewritten."""
    return method(owner, _NAME) is not None or _move(source, owner) is not None


def _move(source: Source, owner: ast.ClassDef) -> Move | None:
    initializer = method(owner, "__init__")
    if initializer is None or method(owner, _NAME):
        return None
    calls = [call for call in source.calls("self.register_buffer", initializer) if not is_saved(call)]
    everywhere = [call for call in source.calls("self.register_buffer", owner) if not is_saved(call)]
    if len(calls) != 1 or any(not _is_inv_freq(call) for call in everywhere):
        return None
    try:
        return _moved(source, initializer, calls[0])
    except UnrecognisedError:  # the matter of lost-buffers
        return None


def _is_inv_freq(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == "inv_freq"


def is_saved(call: ast.Call) -> bool:
    """Say whether a buffer is registered to be in the checkpoint."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "persistent"]
    return not (given and isinstance(given[0], ast.Constant) and given[0].value is False)


def _moved(source: Source, initializer: Function, call: ast.Call) -> Move:
    """Move the statements of `__init__` from the buffer's computation to its last use into a method."""
    match call.args:
        case [ast.Constant(value="inv_freq"), ast.Name(id=local), *_]:
            pass
        case _:
            raise UnrecognisedError(
                call, "a buffer other than inv_freq is not in the checkpoint and must be computed again"
            )
    body = initializer.body
    uses = [number for number, line in enumerate(body) if _uses(source, line, local)]
    before, moved = body[: uses[0]], body[uses[0] : uses[-1] + 1]
    needed = _needed(source, initializer, moved)
    heading = _HEADING
    if "config" in needed:
        if not any("self.config = config" in source.code(line) for line in before):
            raise UnrecognisedError(call, "inv_freq is computed from a config that the module does not keep")
        heading += "    config = self.config\n"
    if unknown := needed - {"self", "device", "config"}:
        raise UnrecognisedError(
            call, f"inv_freq is computed from names that only __init__ has: {', '.join(sorted(unknown))}"
        )
    device = "device" if "device" in arguments(initializer) else ""
    return source.moved(moved, f"self.{_NAME}({device})", initializer, heading)


def _uses(source: Source, line: ast.stmt, local: str) -> bool:
    names = {node.id for node in source.find(ast.Name, within=line)}
    return local in names or any(node.attr == "inv_freq" for node in source.find(ast.Attribute, within=line))


def _needed(source: Source, initializer: Function, moved: list[ast.stmt]) -> set[str]:
    """Return the names that `moved` reads and that `__init__` binds, as arguments or before."""
    bound, read, made = set(arguments(initializer)), set(), set()
    for line in initializer.body:
        names = source.find(ast.Name, within=line)
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        if line in moved:
            read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - made
            made |= stored
        else:
            bound |= stored
    return read & bound


def reset(source: Source, refilled: list[ast.ClassDef], lines: str) -> Edit:
    """Let `_init_weights` of the file's PreTrainedModel class reset the classes given, by `lines` for each."""
    owners = [owner for owner in source.classes.values() if any(_is_library(source, base) for base in owner.bases)]
    if len(owners) != 1:
        raise UnrecognisedError(refilled[0], f"{len(owners)} classes derive from PreTrainedModel directly")
    existing = method(owners[0], "_init_weights")
    names = list(arguments(existing)) if existing else ["self", "module"]
    if existing and len(names) != 2:
        raise UnrecognisedError(existing, "_init_weights does not take (self, module)")
    resets = "".join(lines.format(module=names[1], owner=owner.name) for owner in refilled)
    if existing is None:
        return source.last_in(owners[0], _METHOD + textwrap.indent(resets, "    "))
    # First of all, as what follows may return early, but after the library's own.
    opening = existing.body[: 1 + is_docstring(existing.body[0])][-1]
    own = source.calls("super()._init_weights", opening) if isinstance(opening, ast.Expr) else []
    return source.after(opening, resets) if own else source.first_in(existing, resets)


def _is_library(source: Source, base: ast.expr) -> bool:
    return any(name.startswith("transformers.") and name.endswith(".PreTrainedModel") for name in source.names(base))


RULE = Rule(
    id="rope-buffer",
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
    edits=edits,
)
