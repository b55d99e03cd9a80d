"""What no rule asked to change, before and after: an edit does what it says, and nothing to what stands around it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opensci_lib.hotfix.edit import Edit, Move
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import Function, Source

#: What a statement is known by: the classes and functions around it, and what is written.
Key = tuple[tuple[str, ...], str]
#: Whether an edit changes what stands from one place to another.
Touched = Callable[[int, int], bool]

_HOLDERS = (ast.stmt, ast.excepthandler, ast.match_case)


def first_change(before: str, after: str, edits: Sequence[Edit | Move], is_code: bool) -> int | None:
    """Return the line of the first thing that no edit touches and that is not the same afterwards, or None.

    Both texts are parsed anew. In code, statements that no edit touches must be there word for word, in the same
    order, class and function, and where one is touched inside, what opens it must mean the same; what a rule moved
    may stand anywhere. In JSON, values that no edit touches must be equal.
    """

    def touched(start: int, end: int) -> bool:
        return any(
            edit.start < end and start < edit.end if edit.start < edit.end else start < edit.start < end
            for edit in edits
        )

    if is_code:
        moves = [edit for edit in edits if isinstance(edit, Move)]
        place = _first_statement(Source(before), Source(after), touched, moves)
    else:
        settings = Settings(before)
        place = _first_value(settings, Settings(after), settings, before.index("{"), touched)
    return None if place is None else before.count("\n", 0, place) + 1


def _first_statement(before: Source, after: Source, touched: Touched, moves: list[Move]) -> int | None:
    """Return where the first statement stands that no edit touches and that is not the same afterwards, or None."""
    there: list[Key] = []
    for scope, node in _statements(after):
        there += [_whole(after, scope, node), *([_opening(scope, node)] if _inside(node) else [])]
    words = {text for _, text in there}
    following = iter(there)
    done = 0
    for scope, node in _statements(before):
        start, end = before.start(node), before.end(node)
        if start < done:  # in a statement that was found whole
            continue
        body = getattr(node, "body", None)
        # what is inserted below a block's last line may belong to it
        reach = end + len(before.text[end:].partition("\n")[0]) + 2 if body else end
        if not touched(start, reach):
            key, done = _whole(before, scope, node), end
        elif body and not touched(start, before.start(body[0])):
            key = _opening(scope, node)
        else:
            continue
        is_moved = any(move.start <= start < move.end for move in moves)
        # looking for it uses up what stands before it, so that the order counts
        if key[1] not in words if is_moved else key not in following:
            return start
    return None


def _statements(source: Source) -> Iterator[tuple[tuple[str, ...], ast.stmt]]:
    """Yield a file's statements in its order with the names of the classes and functions around each."""
    waiting: list[tuple[tuple[str, ...], ast.AST]] = [((), source.tree)]
    while waiting:
        scope, node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield scope, node
        if isinstance(node, ast.ClassDef | Function):
            scope = (*scope, node.name)
        waiting += [(scope, child) for child in reversed(_inside(node))]


def _inside(node: ast.AST) -> list[ast.AST]:
    """Return the statements right inside a node, or what holds them."""
    return [
        child
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case)
    ]


def _whole(source: Source, scope: tuple[str, ...], node: ast.stmt) -> Key:
    return scope, source.code(node)


def _opening(scope: tuple[str, ...], node: ast.stmt) -> Key:
    """Return what a block is known by when something in it changes: what opens it, decorators apart."""
    bare = copy.copy(node)
    for name, value in ast.iter_fields(node):
        if isinstance(value, list) and (name == "decorator_list" or any(child in _inside(node) for child in value)):
            setattr(bare, name, [])
    return scope, ast.dump(bare)


def _first_value(
    before: Settings,
    after: Mapping[str, Any],
    values: Mapping[str, Any],
    start: int,
    touched: Touched,
) -> int | None:
    """Return where the first value of the object at `start` stands that no edit touches and that differs, or None."""
    for key, (_, begin, end) in before.members(start).items():
        value, other = values[key], after.get(key)
        if not touched(begin, end):
            if key not in after or value != other:
                return begin
        elif isinstance(value, dict) and isinstance(other, dict):
            found = _first_value(before, other, value, begin, touched)
            if found is not None:
                return found
    return None
