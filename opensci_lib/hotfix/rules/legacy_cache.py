"""Ask a cache what releases after 4.48 still answer.

Until about 4.50 a cache knew `get_usable_length`, `seen_tokens` and `get_max_length`, and until 4.57 it could be made
of tuples of tensors and turned into them. What replaced `get_max_length` gives -1 since 4.54 where that gave None.
The rewrites say the same of a `DynamicCache`, which models of that time are given.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, dotted


def edits(sources: Sources) -> Edits:
    """Write each in a way that does not need it."""
    source = sources.modeling
    for call in source.find(ast.Call):
        if isinstance(call.func, ast.Attribute) and dotted(call.func.value) != "self":
            cache = source.before_dot(call.func)
            if call.func.attr == "get_usable_length":
                yield source.replaced(call, f"{cache}.get_seq_length({_layer(source, call)})")
            elif call.func.attr in ("get_max_length", "to_legacy_cache") and not _is_guarded(source, call):
                otherwise = "None" if call.func.attr == "get_max_length" else cache
                guard = f'hasattr({cache}, "{call.func.attr}")'
                yield source.replaced(call, f"({source.code(call)} if {guard} else {otherwise})")
            elif call.func.attr == "get_max_cache_shape" and _stands_for_max_length(source, call):
                yield source.replaced(call, f"({source.code(call)} if ({source.code(call)} or 0) > 0 else None)")
            elif call.func.attr == "from_legacy_cache" and not _is_guarded(source, call):
                given = ", ".join(source.code(argument) for argument in [*call.args, *call.keywords])
                guard = f'hasattr({cache}, "from_legacy_cache")'
                yield source.replaced(call, f"({source.code(call)} if {guard} else {cache}({given}))")
    for use in source.find(ast.Attribute):
        if use.attr == "seen_tokens" and dotted(use.value) != "self":
            if not isinstance(use.ctx, ast.Load):
                raise UnrecognisedError(use, "seen_tokens of a cache is written")
            yield source.replaced(use, f"{source.before_dot(use)}.get_seq_length()")


def _stands_for_max_length(source: Source, call: ast.Call) -> bool:
    """Say whether a call is the other choice where a cache has no `get_max_length`, and not yet rewritten."""
    around = [node for node in source.parents(call) if isinstance(node, ast.IfExp)]
    return bool(around) and "get_max_length" in source.code(around[0].test)


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


RULE = Rule(
    id="legacy-cache",
    releases="4.49 and later",
    cause=(
        "A cache lost get_usable_length, get_max_length and seen_tokens, and in 5.0 its ways from and to tuples; "
        "without limit it gives -1 as its length since 4.54, by which the mask is cut."
    ),
    before=(
        "def forward(self, past, length):\n"
        "    past = DynamicCache.from_legacy_cache(past)\n"
        "    length += past.get_usable_length(length, self.layer_idx)\n"
        "    return past.get_max_length(), past.seen_tokens, past.to_legacy_cache()\n"
    ),
    after=(
        "def forward(self, past, length):\n"
        '    past = (DynamicCache.from_legacy_cache(past) if hasattr(DynamicCache, "from_legacy_cache") '
        "else DynamicCache(past))\n"
        "    length += past.get_seq_length(self.layer_idx)\n"
        '    return (past.get_max_length() if hasattr(past, "get_max_length") else None), past.get_seq_length(), '
        '(past.to_legacy_cache() if hasattr(past, "to_legacy_cache") else past)\n'
    ),
    signs=("'get_usable_length'", "'get_max_length'", "'seen_tokens'", "'from_legacy_cache'", "'to_legacy_cache'"),
    edits=edits,
)
