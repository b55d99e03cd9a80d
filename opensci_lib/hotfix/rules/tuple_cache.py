"""Give a model that keeps its cache in tuples of tensors none instead of an empty one of transformers.

Such a model takes what is not None for a cache that is full, and later releases give every model an empty one from
the start. Some then read no more than the prompt's last token, and say nothing. What the model returns is its own
tuples, which come back to it. A full cache of transformers, which it can't read, is an error that says so.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, Source, UnrecognisedError, arguments, dotted, method

_CACHE = "past_key_values"
_CACHES = (_CACHE, "past_key_value", "layer_past", "kv_cache", "kv_caches")
_METHODS = ("forward", "prepare_inputs_for_generation")
#: What only a cache of transformers is asked for.
_ASKED = ("update", "get_seq_length", "get_usable_length")
_NAME = "_as_tuples"
_FUNCTION = f'''
def {_NAME}(cache):
    """Return None for an empty cache of transformers, which later releases give a model that takes tuples."""
    if not hasattr(cache, "get_seq_length"):
        return cache
    if cache.get_seq_length() > 0:
        raise TypeError(f"This model takes its cache as tuples of tensors, not as {{type(cache).__name__}}.")
    return None
'''
_LINE = f"{_CACHE} = {_NAME}({_CACHE})\n"


def edits(sources: Sources) -> Edits:
    """Convert what the file's models are given, where something in it takes its cache for tuples."""
    source = sources.modeling
    use = next((use for use in source.find(ast.Subscript) if _is_tuple(source, use)), None)
    if use is None or f"def {_NAME}(" in source.text:
        return
    entries = [
        function
        for owner in source.classes.values()
        if any(name.endswith("PreTrainedModel") for name in source.ancestry(owner.name))
        for function in (method(owner, name) for name in _METHODS)
        if function is not None and _CACHE in arguments(function)
    ]
    if not entries:
        raise UnrecognisedError(use, f"it takes a cache for tuples of tensors, as {source.code(use)}")
    for function in entries:
        yield source.first_in(function, _LINE)
    yield source.below_imports(_FUNCTION)


def _is_tuple(source: Source, use: ast.Subscript) -> bool:
    """Say whether a cache is indexed that is not known there to be one of transformers."""
    name = dotted(use.value)
    if name.rpartition(".")[2] not in _CACHES or not isinstance(use.ctx, ast.Load):
        return False
    function = source.enclosing(use, *FUNCTIONS)
    asked = {f"{name}.{what}" for what in _ASKED}
    return not _is_guarded(source, use) and not any(
        dotted(call.func) in asked for call in source.find(ast.Call, within=function)
    )


def _is_guarded(source: Source, use: ast.Subscript) -> bool:
    """Say whether a place is reached only where `isinstance(…, Cache)` was asked for."""
    return any(
        isinstance(node, ast.If | ast.IfExp)
        and any("Cache" in source.code(call) for call in source.calls("isinstance", within=node.test))
        for node in source.parents(use)
    )


_EXAMPLE = """\
from transformers import PreTrainedModel
{function}
class Model(PreTrainedModel):
    def forward(self, x, past_key_values=None):
{line}        if past_key_values is not None:
            length = past_key_values[0][0].shape[2]
"""

RULE = Rule(
    id="tuple-cache",
    releases="4.49 and later",
    cause=(
        "A model that takes its cache for tuples of tensors takes the empty one that later releases give it for a "
        "full one."
    ),
    before=_EXAMPLE.format(function="", line=""),
    after=_EXAMPLE.format(function=f"\n{_FUNCTION}", line=f"        {_LINE}"),
    signs=("object is not subscriptable",),
    edits=edits,
)
