"""Ask a cache what releases after 4.48 still answer.

Until about 4.50 a cache knew `get_usable_length`, `seen_tokens` and `get_max_length`, and until 4.57 it could be made
of tuples of tensors and turned into them. Where that gave None, what replaced `get_max_length` gives -1 since 4.54,
as does the `get_max_length` that came back with 5.14. The rewrites say the same of a `DynamicCache`, which models of
that time are given.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, Source, UnrecognisedError, dotted

_LENGTHS = ("get_max_length", "get_max_cache_shape")
_NAME = "_max_length"
_FUNCTION = f'''
def {_NAME}(cache):
    """Return how many tokens a cache can hold, or None without a limit, of which later releases say -1."""
    length = cache.get_max_length() if hasattr(cache, "get_max_length") else cache.get_max_cache_shape()
    return length if length is not None and length > 0 else None
'''


def edits(sources: Sources) -> Edits:
    """Write each in a way that does not need it."""
    source = sources.modeling
    yield from _lengths(source)
    for call in source.find(ast.Call):
        if isinstance(call.func, ast.Attribute) and dotted(call.func.value) != "self":
            cache = source.before_dot(call.func)
            if call.func.attr == "get_usable_length":
                yield source.replaced(call, f"{cache}.get_seq_length({_layer(source, call)})")
            elif call.func.attr == "to_legacy_cache" and not _is_guarded(source, call):
                guard = f'hasattr({cache}, "to_legacy_cache")'
                yield source.replaced(call, f"({source.code(call)} if {guard} else {cache})")
            elif call.func.attr == "from_legacy_cache" and not _is_guarded(source, call):
                given = ", ".join(source.code(argument) for argument in [*call.args, *call.keywords])
                guard = f'hasattr({cache}, "from_legacy_cache")'
                yield source.replaced(call, f"({source.code(call)} if {guard} else {cache}({given}))")
    for use in source.find(ast.Attribute):
        if use.attr == "seen_tokens" and dotted(use.value) != "self":
            if not isinstance(use.ctx, ast.Load):
                raise UnrecognisedError(use, "seen_tokens of a cache is written")
            yield source.replaced(use, f"{source.before_dot(use)}.get_seq_length()")


def _lengths(source: Source) -> Edits:
    """Ask for the maximum length by a function, where the file asks by its old name or chooses between the two."""
    places: dict[ast.expr, str] = {}
    for call in source.find(ast.Call):
        function = source.enclosing(call, *FUNCTIONS)
        if (cache := _measured(source, call)) and (function is None or function.name != _NAME):
            around = next(source.parents(call))
            choice = around if isinstance(around, ast.IfExp) else None
            if choice and {_measured(source, choice.body), _measured(source, choice.orelse)} == {cache}:
                places[choice] = cache
            elif source.code(call.func).endswith("get_max_length"):
                places[call] = cache
    for place, cache in places.items():
        yield source.replaced(place, f"{_NAME}({cache})")
    if places and f"def {_NAME}(" not in source.text:
        yield source.below_imports(_FUNCTION)


def _measured(source: Source, node: ast.expr) -> str | None:
    """Return what is asked for its maximum length, as written, where a node does so of something else than self."""
    call = node.func if isinstance(node, ast.Call) else None
    is_length = isinstance(call, ast.Attribute) and call.attr in _LENGTHS and dotted(call.value) != "self"
    return source.before_dot(call) if is_length else None


def _layer(source: Source, call: ast.Call) -> str:
    """Return the argument of `get_usable_length` that says which layer, as written; the length does not matter."""
    named = [source.code(keyword.value) for keyword in call.keywords if keyword.arg == "layer_idx"]
    return named[0] if named else source.code(call.args[1]) if len(call.args) > 1 else ""


def _is_guarded(source: Source, call: ast.Call) -> bool:
    """Say whether a call is made only where the cache has the method."""
    return any(
        isinstance(node, ast.IfExp | ast.If) and f'"{call.func.attr}"' in source.code(node.test).replace("'", '"')
        for node in source.parents(call)
        if isinstance(call.func, ast.Attribute)
    )


_EXAMPLE = """\
from transformers import DynamicCache
{function}
def forward(self, past, length):
    past = {made}
    length += past.{usable}
    return {given}
"""

RULE = Rule(
    id="legacy-cache",
    releases="4.49 and later",
    cause=(
        "A cache lost get_usable_length, get_max_length and seen_tokens, and in 5.0 its ways from and to tuples; "
        "without limit it says -1 since 4.54, and by the old name since 5.14, by which masks are cut."
    ),
    before=_EXAMPLE.format(
        function="",
        made="DynamicCache.from_legacy_cache(past)",
        usable="get_usable_length(length, self.layer_idx)",
        given="past.get_max_length(), past.seen_tokens, past.to_legacy_cache()",
    ),
    after=_EXAMPLE.format(
        function=f"\n{_FUNCTION}",
        made=(
            '(DynamicCache.from_legacy_cache(past) if hasattr(DynamicCache, "from_legacy_cache") '
            "else DynamicCache(past))"
        ),
        usable="get_seq_length(self.layer_idx)",
        given=(
            "_max_length(past), past.get_seq_length(), "
            '(past.to_legacy_cache() if hasattr(past, "to_legacy_cache") else past)'
        ),
    ),
    signs=("'get_usable_length'", "'get_max_length'", "'seen_tokens'", "'from_legacy_cache'", "'to_legacy_cache'"),
    edits=edits,
)
