"""Declare `tie_word_embeddings` where it is an argument.

A configuration that only hands it to the library's own relies on that one to keep it.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import arguments, dotted, method

_NAME = "tie_word_embeddings"


def edits(sources: Sources) -> Edits:
    """Assign it before the library's `__init__`."""
    source = sources.configuration
    for owner in source.classes.values() if source else []:
        initializer = method(owner, "__init__")
        if source is None or initializer is None or _NAME not in arguments(initializer):
            continue
        set_here = [target for line in source.find(ast.Assign, within=initializer) for target in line.targets]
        lines = [source.enclosing(call, ast.stmt) for call in source.calls("super().__init__", initializer)]
        if lines and isinstance(lines[0], ast.Expr) and f"self.{_NAME}" not in map(dotted, set_here):
            yield source.before(lines[0], f"self.{_NAME} = {_NAME}")


RULE = Rule(
    id="tie-word-embeddings",
    target="configuration",
    releases="5.0 and later",
    cause="Whether embeddings are tied is each model's own setting from 5.0 on, to be declared by its configuration.",
    before=(
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, tie_word_embeddings=False, **kwargs):\n"
        "        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)\n"
    ),
    after=(
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, tie_word_embeddings=False, **kwargs):\n"
        "        self.tie_word_embeddings = tie_word_embeddings\n"
        "        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)\n"
    ),
    trf=("TRF015",),
    edits=edits,
)
