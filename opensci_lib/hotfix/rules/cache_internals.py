"""Refuse code that leans on how a cache of transformers is built.

`DynamicCache` held its tensors in lists, `key_cache` and `value_cache`, until 4.53; 4.54 moved them into layers. A
subclass that fills the lists is imported as before, and what it put there is no longer read: the logits are wrong and
nothing says so. From outside, the lists can be read until 4.55 and written in vain.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, dotted

_FIELDS = ("key_cache", "value_cache", "_seen_tokens")


def edits(sources: Sources) -> Edits:
    """Name the first use of a cache's fields, in a subclass of a cache or on what a model is given as one."""
    source = sources.modeling
    for use in source.find(ast.Attribute):
        if use.attr not in _FIELDS:
            continue
        owner = source.enclosing(use, ast.ClassDef)
        if owner is None or dotted(use.value) != "self":
            raise UnrecognisedError(use, f"it reaches into a cache, {source.code(use)}, which 4.54 built anew")
        if _is_cache(source, owner):
            raise UnrecognisedError(
                use, f"{owner.name} derives from a cache of transformers and uses its {use.attr}, which 4.54 gave up"
            )
    yield from ()


def _is_cache(source: Source, owner: ast.ClassDef) -> bool:
    return any(base.startswith("transformers.") and base.endswith("Cache") for base in source.ancestry(owner.name))


RULE = Rule(
    id="cache-internals",
    releases="4.54 and later",
    cause=(
        "4.54 moved a cache's tensors into layers: a class that derives from DynamicCache and fills key_cache is "
        "imported as before, and silently wrong. It is refused."
    ),
    before=(
        "from transformers import DynamicCache\n"
        "\n"
        "class PrefixCache(DynamicCache):\n"
        "    def __init__(self, prefix):\n"
        "        super().__init__()\n"
        "        self.key_cache = prefix\n"
    ),
    after=None,
    edits=edits,
)
