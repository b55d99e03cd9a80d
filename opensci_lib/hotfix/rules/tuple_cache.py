"""Refuse code that takes its cache for tuples of tensors.

Such a model takes what is not None for a cache that is full. Later releases give it an empty one from the start, of
which it makes what it can: some read past the prompt, and say nothing.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, dotted

_CACHES = ("past_key_values", "past_key_value", "layer_past")


def edits(sources: Sources) -> Edits:
    """Name the first place where a cache is indexed, unless it is known there to be none of transformers' caches."""
    source = sources.modeling
    for use in source.find(ast.Subscript):
        name = dotted(use.value).rpartition(".")[2]
        if name in _CACHES and isinstance(use.ctx, ast.Load) and not _is_guarded(source, use):
            raise UnrecognisedError(use, f"it takes {name} for tuples of tensors, as {source.code(use)}")
    yield from ()


def _is_guarded(source: Source, use: ast.Subscript) -> bool:
    """Say whether a place is reached only where `isinstance(…, Cache)` was asked for."""
    return any(
        isinstance(node, ast.If | ast.IfExp)
        and any("Cache" in source.code(call) for call in source.calls("isinstance", within=node.test))
        for node in source.parents(use)
    )


RULE = Rule(
    id="tuple-cache",
    releases="4.49 and later",
    cause=(
        "A model that takes its cache for tuples of tensors takes the empty one that later releases give it for a "
        "full one. It is refused."
    ),
    before=(
        "def forward(self, past_key_values=None):\n"
        "    if past_key_values is not None:\n"
        "        length = past_key_values[0][0].shape[2]\n"
    ),
    after=None,
    edits=edits,
)
