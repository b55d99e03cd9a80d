"""Declare `tie_word_embeddings` where it is an argument.

A configuration that only hands it to the library's own relies on that one to keep it.
"""

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import method, replace, statements

_NAME = "tie_word_embeddings"
_ASSIGNMENT = m.AssignTarget(target=m.Attribute(value=m.Name("self"), attr=m.Name(_NAME)))
_SUPER = m.SimpleStatementLine(
    body=[m.Expr(value=m.Call(func=m.Attribute(value=m.Call(func=m.Name("super")), attr=m.Name("__init__"))))]
)


def rewrite(sources: Sources) -> cst.Module | None:
    """Assign it before the library's `__init__`."""
    tree = sources.configuration
    if tree is None:
        return None
    changes: dict = {}
    for owner in tree.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None or tree.find(_ASSIGNMENT, initializer):
            continue
        calls = tree.find(_SUPER, initializer)
        if calls and _NAME in {parameter.name.value for parameter in initializer.params.params}:
            [added] = statements(f"self.{_NAME} = {_NAME}\n", tree.module)
            changes[calls[0]] = [
                added.with_changes(leading_lines=calls[0].leading_lines),
                calls[0].with_changes(leading_lines=[]),
            ]
    return replace(tree.module, changes) if changes else None


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
    rewrite=rewrite,
)
