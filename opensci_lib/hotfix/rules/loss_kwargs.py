"""Import `LossKwargs` or `TransformersKwargs`, whichever the release has.

`transformers.utils.LossKwargs` exists from 4.48 to 4.53 and `transformers.utils.TransformersKwargs`
from 4.54 on. Both only annotate keyword arguments.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError

_OTHER = {"LossKwargs": "TransformersKwargs", "TransformersKwargs": "LossKwargs"}
_HOMES = ("transformers.utils", "transformers.utils.generic")
_FULL_NAMES = {f"{home}.{name}" for home in _HOMES for name in _OTHER}
_ATTEMPT = """\
try:
    from transformers.utils import {first}
except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54
    from transformers.utils import {second}
"""


def edits(sources: Sources) -> Edits:
    """Turn each import of either name into a `try` that falls back on the other."""
    source = sources.modeling
    for node in source.find(ast.ImportFrom):
        if node.level or node.module not in _HOMES:
            continue
        if node.names[0].name == "*":
            raise UnrecognisedError(node, "a star import may bring in LossKwargs")
        found = [alias for alias in node.names if alias.name in _OTHER]
        if not found:
            continue
        if (attempt := source.enclosing(node, ast.Try)) is not None:
            if all(_OTHER[alias.name] in source.code(attempt) for alias in found):
                continue
            raise UnrecognisedError(node, "the import stands in a `try` without the other name")
        if len(found) > 1:
            raise UnrecognisedError(node, "the file imports both names")
        [alias] = found
        attempt = _attempt(alias.name, alias.asname or alias.name)
        start, end = source.lines(node)
        top = source.imports()
        if len(node.names) == 1 and (node not in top or node is top[-1]):
            place, indent = source.start(node), source.indent(node)
            joined = len(top) > 1 and source.text[:place].endswith(source.code(top[-2]) + source.newline)
            gap = source.newline if joined else ""
            yield source.replaced(node, gap + source.fitted(attempt, indent).strip())
            continue
        if len(node.names) == 1:
            yield Edit(start, end, "")
        else:
            yield source.without(source.start(alias), source.end(alias))
        yield source.below_imports(attempt) if node in top else source.after(node, attempt)
    uses = [node for node in source.find(ast.Attribute) if source.names(node) & _FULL_NAMES]
    if uses:
        name = uses[0].attr
        if any(use.attr != name for use in uses):
            raise UnrecognisedError(uses[-1], "the file uses both names")
        if source.name_of(f"transformers.utils.{name}") or source.name_of(f"transformers.utils.generic.{name}"):
            raise UnrecognisedError(uses[0], f"{name} is imported and used as an attribute as well")
        for use in uses:
            yield source.replaced(use, name)
        yield source.below_imports(_attempt(name, name))


def _attempt(name: str, local: str) -> str:
    """Return the import of a name, or of the one that it has in other releases, as a local name."""
    first, second = (one if one == local else f"{one} as {local}" for one in (name, _OTHER[name]))
    return _ATTEMPT.format(first=first, second=second)


RULE = Rule(
    id="loss-kwargs",
    releases="4.54 and later (LossKwargs), 4.48 to 4.53 (TransformersKwargs)",
    cause="transformers.utils.LossKwargs was renamed to TransformersKwargs in 4.54, so the file does not import.",
    before="from transformers.utils import LossKwargs, logging\n",
    after=(
        "from transformers.utils import logging\n"
        "\n"
        "try:\n"
        "    from transformers.utils import LossKwargs\n"
        "except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54\n"
        "    from transformers.utils import TransformersKwargs as LossKwargs\n"
    ),
    signs=("LossKwargs", "TransformersKwargs"),
    edits=edits,
)
