"""Derive a model that is to generate from `GenerationMixin`.

Until 4.49 every model inherited `generate`, and could use it where it had a `prepare_inputs_for_generation` of its
own. Since 4.50 it has none unless it names the mixin among its bases.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, method

_MIXIN = "GenerationMixin"
_IMPORT = f"from transformers.generation import {_MIXIN}\n"


def edits(sources: Sources) -> Edits:
    """Add the base to each model that prepares inputs for generation."""
    source, found = sources.modeling, False
    for owner in source.classes.values():
        if method(owner, "prepare_inputs_for_generation") and _lacks_mixin(source, owner):
            found = True
            yield from source.appended(owner.bases, _MIXIN)
    if found and not any(_is_mixin(name) for name in source.names(ast.Name(_MIXIN))):
        yield source.below_imports(_IMPORT)


def _lacks_mixin(source: Source, owner: ast.ClassDef) -> bool:
    """Say whether a class derives from the library's PreTrainedModel and from nothing that can generate.

    Of a base in another file only its name is known.
    """
    foreign = [name for name in source.ancestry(owner.name) if name not in source.classes]
    models = [name for name in foreign if name.endswith("PreTrainedModel")]
    return bool(models) and not any(_is_mixin(name) for name in foreign)


def _is_mixin(name: str) -> bool:
    return name.startswith("transformers.") and name.endswith(f".{_MIXIN}")


RULE = Rule(
    id="generation-mixin",
    releases="4.50 and later",
    cause="A model no longer inherits generate() from PreTrainedModel, and has none unless it names GenerationMixin.",
    before=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class Base(PreTrainedModel): ...\n"
        "\n"
        "class ForCausalLM(Base):\n"
        "    def prepare_inputs_for_generation(self, input_ids, **kwargs): ...\n"
    ),
    after=(
        "from transformers import PreTrainedModel\n"
        "\n"
        f"{_IMPORT}"
        "\n"
        "class Base(PreTrainedModel): ...\n"
        "\n"
        f"class ForCausalLM(Base, {_MIXIN}):\n"
        "    def prepare_inputs_for_generation(self, input_ids, **kwargs): ...\n"
    ),
    signs=("has no attribute 'generate'",),
    edits=edits,
)
