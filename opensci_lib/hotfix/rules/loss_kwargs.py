"""Import `LossKwargs` or `TransformersKwargs`, whichever the release has.

`transformers.utils.LossKwargs` exists from 4.48 to 4.53 and `transformers.utils.TransformersKwargs`
from 4.54 on. Both only annotate keyword arguments.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, replace, statements

_OTHER = {"LossKwargs": "TransformersKwargs", "TransformersKwargs": "LossKwargs"}
_HOMES = ("transformers.utils", "transformers.utils.generic")
_FULL_NAMES = {f"{home}.{name}": name for home in _HOMES for name in _OTHER}


def rewrite(sources: Sources) -> cst.Module | None:
    """Move each import of either name into a `try` that falls back on the other."""
    tree = sources.modeling
    changes: dict = {}
    for node in tree.find(m.ImportFrom()):
        if isinstance(node.names, cst.ImportStar):
            if _module(tree, node) in _HOMES:
                raise UnrecognisedError(node, "a star import may bring in LossKwargs")
            continue
        aliases = [alias for alias in node.names if _imported(tree, node, alias)]
        if not aliases:
            continue
        if (attempt := tree.enclosing(node, cst.Try)) is not None:
            if all(_OTHER[alias.name.value] in tree.code(attempt) for alias in aliases):
                continue
            raise UnrecognisedError(node, "the import stands in a `try` without the other name")
        line = tree.enclosing(node, cst.SimpleStatementLine)
        if line is None or len(line.body) > 1:
            raise UnrecognisedError(node, "the import shares its line with another statement")
        rest = [alias for alias in node.names if alias not in aliases]
        added = [new for alias in aliases for new in _attempt(tree, alias)]
        if rest:
            # a parenthesised list may keep its trailing comma, any other must not have one
            last = rest[-1] if node.lpar else rest[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
            kept = node.with_changes(names=[*rest[:-1], last])
            changes[line] = [line.with_changes(body=[kept]), *added]
        else:
            added[0] = added[0].with_changes(leading_lines=line.leading_lines)
            changes[line] = added
    if uses := [node for node in tree.find(m.Attribute()) if tree.names(node) & _FULL_NAMES.keys()]:
        name = uses[0].attr.value
        if any(use.attr.value != name for use in uses):
            raise UnrecognisedError(uses[-1], "the file uses both names")
        if name in tree.code(cst.Module(body=tree.find(m.ImportFrom() | m.Import()))):
            raise UnrecognisedError(uses[0], f"{name} is imported and used as an attribute as well")
        changes.update({use: cst.Name(name) for use in uses})
        last_import = [line for line in tree.module.body if m.matches(line, _IMPORT)][-1]
        changes[last_import] = [last_import, *_attempt(tree, cst.ImportAlias(cst.Name(name)))]
    return replace(tree.module, changes) if changes else None


_IMPORT = m.SimpleStatementLine(body=[m.ImportFrom() | m.Import()])


def _module(tree: Tree, node: cst.ImportFrom) -> str:
    return "" if node.relative or node.module is None else tree.code(node.module)


def _imported(tree: Tree, node: cst.ImportFrom, alias: cst.ImportAlias) -> bool:
    return f"{_module(tree, node)}.{alias.evaluated_name}" in _FULL_NAMES


def _attempt(tree: Tree, alias: Any) -> list:
    name = alias.name.value
    local = alias.evaluated_alias or name
    first = name if local == name else f"{name} as {local}"
    second = _OTHER[name] if local == _OTHER[name] else f"{_OTHER[name]} as {local}"
    return statements(
        "try:\n"
        f"    from transformers.utils import {first}\n"
        "except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54\n"
        f"    from transformers.utils import {second}\n",
        tree.module,
    )


RULE = Rule(
    id="loss-kwargs",
    target="modeling",
    releases="4.54 and later (LossKwargs), 4.48 to 4.53 (TransformersKwargs)",
    cause="transformers.utils.LossKwargs was renamed to TransformersKwargs in 4.54, so the file does not import.",
    before="from transformers.utils import LossKwargs, logging\n",
    after=(
        "from transformers.utils import logging\n"
        "try:\n"
        "    from transformers.utils import LossKwargs\n"
        "except ImportError:  # LossKwargs became TransformersKwargs in transformers 4.54\n"
        "    from transformers.utils import TransformersKwargs as LossKwargs\n"
    ),
    trf=(),
    signs=("LossKwargs", "TransformersKwargs"),
    rewrite=rewrite,
)
