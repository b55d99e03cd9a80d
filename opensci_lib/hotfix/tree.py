"""Python source as rules see it: a syntax tree whose names are resolved to where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import libcst as cst
import libcst.matchers as m
from libcst.metadata import (
    MetadataWrapper,
    ParentNodeProvider,
    PositionProvider,
    QualifiedNameProvider,
)

Node = TypeVar("Node", bound=cst.CSTNode)


class UnrecognisedError(Exception):
    """A rule sees its symptom at `node` in a form that it can't rewrite."""

    def __init__(self, node: cst.CSTNode, what: str):
        self.node, self.what = node, what


@lru_cache(maxsize=4)  # rules look at the same few texts one after the other
def parse(code: str) -> Tree:
    """Return the tree of a file's text."""
    return Tree(code)


class Tree:
    """A parsed file. Rules look at `module` and give back a new module; the tree itself stays as it is."""

    def __init__(self, code: str):
        self._wrapper = MetadataWrapper(cst.parse_module(code), unsafe_skip_copy=True)
        self.module = self._wrapper.module

    # Each of these walks the whole file, so they are computed only where a rule asks for them.

    @cached_property
    def _names(self):
        return self._wrapper.resolve(QualifiedNameProvider)

    @cached_property
    def _parents(self):
        return self._wrapper.resolve(ParentNodeProvider)

    @cached_property
    def _positions(self):
        return self._wrapper.resolve(PositionProvider)

    def line(self, node: cst.CSTNode) -> int:
        """Return the line on which a node starts, from 1."""
        return self._positions[node].start.line

    def names(self, node: cst.CSTNode) -> set[str]:
        """Return a node's full names: `tu.LossKwargs` may be "transformers.utils.LossKwargs"."""
        found = self._names.get(node, set())
        return {name.name for name in (found() if callable(found) else found)}

    def name_of(self, module: str) -> str | None:
        """Return how the file writes a module that it imports: "nn" for "torch.nn", or None."""
        for node in self.find(m.Import() | m.ImportFrom()):
            prefix = "" if isinstance(node, cst.Import) else f"{self.code(node.module)}." if node.module else "."
            for alias in [] if isinstance(node.names, cst.ImportStar) else node.names:
                name = prefix + alias.evaluated_name
                if name == module:
                    return alias.evaluated_alias or alias.evaluated_name
                # `import torch.utils.checkpoint` binds torch
                if isinstance(node, cst.Import) and name.startswith(f"{module}.") and not alias.asname:
                    return module
        return None

    def parents(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """Yield the nodes around a node, inside out."""
        while (node := self._parents.get(node)) is not None:
            yield node

    def enclosing(self, node: cst.CSTNode, kind: type[Node]) -> Node | None:
        """Return the innermost node of a kind around a node."""
        return next((parent for parent in self.parents(node) if isinstance(parent, kind)), None)

    def find(self, matcher: m.BaseMatcherNode, within: cst.CSTNode | None = None) -> list[Any]:
        """Return all nodes that match, in the order of the file."""
        return list(m.findall(self.module if within is None else within, matcher))

    @property
    def classes(self) -> dict[str, cst.ClassDef]:
        """The file's top-level classes by name."""
        return {node.name.value: node for node in self.module.body if isinstance(node, cst.ClassDef)}

    def ancestry(self, name: str) -> list[str]:
        """Return a class's name and those of its bases within the file; foreign bases by full name."""
        known, found, queue = self.classes, [], [name]
        while queue:
            current = queue.pop(0)
            if current in found:
                continue
            found.append(current)
            for base in known[current].bases if current in known else []:
                queue += self.names(base.value) or {self.code(base.value)}
        return found

    def code(self, node: cst.CSTNode) -> str:
        """Return a node as source text."""
        return self.module.code_for_node(node)


def method(node: cst.ClassDef, name: str) -> cst.FunctionDef | None:
    """Return a class's own method, or None."""
    for statement in node.body.body:
        if isinstance(statement, cst.FunctionDef) and statement.name.value == name:
            return statement
    return None


def replace(module: cst.Module, changes: dict[Any, Any]) -> cst.Module:
    """Return `module` with nodes replaced: by a node, a list of statements, or None to remove."""

    class Replace(cst.CSTTransformer):
        def on_leave(self, original_node: Any, updated_node: Any) -> Any:
            if original_node not in changes:
                return super().on_leave(original_node, updated_node)
            new = changes[original_node]
            if callable(new):
                new = new(updated_node)
            if new is None:
                return cst.RemoveFromParent()
            return cst.FlattenSentinel(new) if isinstance(new, list) else new

    return module.visit(Replace())


def statements(code: str, module: cst.Module) -> list:
    """Parse source text to statements, in the line ends and indentation of `module`."""
    return list(cst.parse_module(code, module.config_for_parsing).body)


def after_docstring(body: Any, added: list) -> list:
    """Return a function's statements with others before them, but below its docstring."""
    lines = list(body.body)
    count = m.matches(lines[0], m.SimpleStatementLine(body=[m.Expr(value=m.SimpleString() | m.ConcatenatedString())]))
    return [*lines[:count], *added, *lines[count:]]
