"""Let the library compute the rotary buffer again after loading.

From 5.0 on a model is built on the meta device and every buffer that is not in the checkpoint is
replaced by `torch.empty_like`: uninitialised memory, which may be zero, garbage, or right by luck,
so that looking at it decides nothing. The library's own `_init_weights` then fills the `inv_freq` of
each module that is called a RotaryEmbedding and keeps an `original_inv_freq`, by the module's
`rope_type` and `config`, as its constructor did. It leaves the original, which is no buffer here, on
the meta device.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, is_docstring, method

_ORIGINAL = "original_inv_freq"
_CALL = "super()._init_weights({module})  # transformers 5 fills inv_freq there, which loading leaves uninitialised\n"
_KEPT = f"""\
if hasattr({{module}}, "{_ORIGINAL}"):
    {{module}}.{_ORIGINAL} = {{module}}.inv_freq
"""
_METHOD = "def _init_weights(self, module):\n"


def edits(sources: Sources) -> Edits:
    """Call the library's `_init_weights` first, and keep what it filled as the original."""
    source = sources.modeling
    rotary = [owner for owner in source.classes.values() if knows(source, owner)]
    for owner in rotary:
        initializer = method(owner, "__init__")
        [call] = _lost(source, initializer)
        line = source.enclosing(call, ast.stmt)
        if line is not None and f"self.{_ORIGINAL}" not in _made(source, initializer):
            yield source.after(line, f"self.{_ORIGINAL} = self.inv_freq")
    if rotary:
        yield from _initialised(source, rotary[0])


def is_saved(call: ast.Call) -> bool:
    """Say whether a buffer is registered to be in the checkpoint."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "persistent"]
    return not (given and isinstance(given[0], ast.Constant) and given[0].value is False)


def knows(source: Source, owner: ast.ClassDef) -> bool:
    """Say whether a class has inv_freq for its only such buffer, and the library fills it as the constructor does."""
    initializer, lost = method(owner, "__init__"), _lost(source, owner)
    calls = _lost(source, initializer) if initializer else []
    if len(calls) != 1 or any(not _is_inv_freq(call) for call in lost):
        return False
    made, values = _made(source, initializer), calls[0].args[1:2]
    computed = made.get(dotted(values[0])) if values else None
    return (
        isinstance(computed, ast.Call)
        and dotted(computed.func) == "self.rope_init_fn"
        and "RotaryEmbedding" in owner.name
        and {"self.rope_type", "self.config"} <= made.keys()
    )


def _lost(source: Source, within: ast.AST | None) -> list[ast.Call]:
    return [call for call in source.calls("self.register_buffer", within) if not is_saved(call)]


def _is_inv_freq(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == "inv_freq"


def _made(source: Source, initializer: Function | None) -> dict[str, ast.expr]:
    """Return what a constructor assigns, by how it is written."""
    made = {}
    for line in source.find(ast.Assign, within=initializer):
        for target in line.targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                made[dotted(name)] = line.value
    return made


def _initialised(source: Source, rotary: ast.ClassDef) -> Edits:
    """Add to `_init_weights` of the file's PreTrainedModel class, or write one."""
    owner = library_model(source, rotary)
    existing = method(owner, "_init_weights")
    if existing is None:
        added = _CALL.format(module="module") + _KEPT.format(module="module")
        yield source.last_in(owner, _METHOD + "".join(f"    {line}\n" for line in added.splitlines()))
        return
    names = list(arguments(existing))
    if len(names) != 2:
        raise UnrecognisedError(existing, "_init_weights does not take (self, module)")
    if _ORIGINAL in source.code(existing):
        return
    # First of all, as what follows may return early.
    opening = existing.body[: 1 + is_docstring(existing.body[0])][-1]
    kept = _KEPT.format(module=names[1])
    if isinstance(opening, ast.Expr) and source.calls("super()._init_weights", opening):
        yield source.after(opening, kept)
    else:
        yield source.first_in(existing, _CALL.format(module=names[1]) + kept)


def library_model(source: Source, concerned: ast.ClassDef) -> ast.ClassDef:
    """Return the file's one class that derives from the library's PreTrainedModel."""
    owners = [owner for owner in source.classes.values() if any(_is_library(source, base) for base in owner.bases)]
    if len(owners) != 1:
        raise UnrecognisedError(concerned, f"{len(owners)} classes derive from PreTrainedModel directly")
    return owners[0]


def _is_library(source: Source, base: ast.expr) -> bool:
    return any(name.startswith("transformers.") and name.endswith(".PreTrainedModel") for name in source.names(base))


_EXAMPLE = (
    "from transformers import PreTrainedModel\n"
    "\n"
    "class RotaryEmbedding(nn.Module):\n"
    "    def __init__(self, config, device=None):\n"
    "        self.config, self.rope_type = config, config.rope_type\n"
    "        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)\n"
    '        self.register_buffer("inv_freq", inv_freq, persistent=False)\n'
    "        self.original_inv_freq = self.inv_freq\n"
    "\n"
    "class Base(PreTrainedModel):\n"
    "    def _init_weights(self, module):\n"
    "{added}"
    "        pass\n"
)

RULE = Rule(
    id="rope-buffer",
    releases="5.0 and later",
    cause=(
        "From 5.0 on buffers that are not in the checkpoint are uninitialised memory after loading, "
        "so the rotary embedding rotates by garbage and the model is fluent but wrong."
    ),
    before=_EXAMPLE.format(added=""),
    after=_EXAMPLE.format(
        added="        super()._init_weights(module)  "
        "# transformers 5 fills inv_freq there, which loading leaves uninitialised\n"
        '        if hasattr(module, "original_inv_freq"):\n'
        "            module.original_inv_freq = module.inv_freq\n"
    ),
    trf=("TRF018",),
    signs=("inv_freq holds",),
    edits=edits,
)
