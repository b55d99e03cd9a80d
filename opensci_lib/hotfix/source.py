"""Python source as rules see it: what stands where, what names mean, and edits in the file's own layout."""

from __future__ import annotations

import ast
import itertools
import re
import sys
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TypeVar

from opensci_lib.hotfix.edit import Edit, Move

#: The nodes that stand somewhere.
Placed = ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias
Node = TypeVar("Node", bound=Placed)
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ATTRIBUTE = (ast.Assign, ast.AnnAssign)

#: What added lines should not be longer than: the limit of transformers' own code.
WIDTH = 119
_NO_IMPORTS = "the file imports nothing before its first class or function"
_SHARED = "a statement shares its line with another one"
_NEWLINE = re.compile(r"\r\n|\r|\n")
_REST = re.compile(r"[ \t\f]*(?:#[^\r\n]*)?(\r\n|\r|\n|\Z)")
_COMMA = re.compile(r"[\s)]*,")
_COMMA_AND_COMMENT = re.compile(r"[\s)]*,(?:[ \t]*#[^\r\n]*)?")
_SPACE = re.compile(r"\s*")


class UnrecognisedError(Exception):
    """A rule sees its symptom at `node` in a form that it can't rewrite."""

    def __init__(self, node: Placed, what: str):
        self.node, self.what = node, what


def parse(text: str) -> ast.Module:
    """Return the syntax tree of a text, or raise what `ast.parse` raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on escapes such as "\d": the author's business
        return ast.parse(text)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, outside in."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += ast.iter_child_nodes(node)


def dotted(node: ast.AST) -> str:
    """Return names joined by dots as they are written, such as "self.config" or "super().__init__", or else ""."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args and not node.keywords:
        names.append(f"{node.func.id}()")
    elif isinstance(node, ast.Name):
        names.append(node.id)
    else:
        return ""
    return ".".join(reversed(names))


def method(node: ast.ClassDef, name: str) -> Function | None:
    """Return a class's own method, or None."""
    return next((line for line in node.body if isinstance(line, Function) and line.name == name), None)


def arguments(function: Function) -> dict[str, ast.arg]:
    """Return a function's positional arguments by name."""
    return {argument.arg: argument for argument in [*function.args.posonlyargs, *function.args.args]}


def is_docstring(statement: ast.stmt) -> bool:
    """Say whether a statement is nothing but a string."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return False
    return isinstance(statement.value.value, str)


class Source:
    """A file's text with its syntax tree. Places are counted in characters from the start of the text."""

    def __init__(self, text: str):
        self.text = text
        self.tree = parse(text)
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self._starts = [0, *(found.end() for found in _NEWLINE.finditer(text))]
        self._parents: dict[ast.AST, ast.AST] = {}
        self._nodes: dict[type, list] = {}
        for node in walk(self.tree):
            self._nodes.setdefault(type(node), []).append(node)
            for child in ast.iter_child_nodes(node):
                self._parents[child] = node

    # Where things are

    def start(self, node: Placed) -> int:
        """Return where a node starts, without the parentheses around it."""
        return self._place(node.lineno, node.col_offset)

    def end(self, node: Placed) -> int:
        """Return where a node ends, without the parentheses around it."""
        return self._place(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)

    def _place(self, line: int, column: int) -> int:
        start = self._starts[line - 1]
        text = self.text[start : start + column]
        # columns are counted in bytes of UTF-8
        return start + (column if text.isascii() else len(text.encode()[:column].decode()))

    def column(self, node: Placed) -> int:
        """Return how many characters stand before a node on its line."""
        return self.start(node) - self._line_start(self.start(node))

    def code(self, node: Placed) -> str:
        """Return a node as it is written."""
        return self.text[self.start(node) : self.end(node)]

    def before_dot(self, node: ast.Attribute) -> str:
        """Return what an attribute is taken from as it is written, with the parentheses around it."""
        return self.code(node)[: -len(node.attr)].rstrip().removesuffix(".").rstrip()

    def find(self, *kinds: type[Node], within: ast.AST | None = None) -> list[Node]:
        """Return the nodes of some kinds, in the order of the file."""
        if within is None:
            found = [node for kind in kinds for node in self._nodes.get(kind, [])]
        else:
            found = [node for node in walk(within) if isinstance(node, kinds)]
        return sorted(found, key=lambda node: (node.lineno, node.col_offset))

    def calls(self, name: str, within: ast.AST | None = None) -> list[ast.Call]:
        """Return the calls of what is written so, such as "self.register_buffer", in the order of the file."""
        return [call for call in self.find(ast.Call, within=within) if dotted(call.func) == name]

    def parents(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, inside out."""
        while (parent := self._parents.get(node)) is not None:
            yield (node := parent)

    def enclosing(self, node: ast.AST, *kinds: type[Node]) -> Node | None:
        """Return the innermost node of some kinds around a node."""
        return next((parent for parent in self.parents(node) if isinstance(parent, kinds)), None)

    # What names mean

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The file's top-level classes by name."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    @cached_property
    def _imported(self) -> dict[str, set[str]]:
        """The full names that a name in the file may stand for."""
        found: dict[str, set[str]] = {}
        for node in self.find(ast.Import, ast.ImportFrom):
            prefix = (
                "" if isinstance(node, ast.Import) else "." * node.level + (f"{node.module}." if node.module else "")
            )
            for alias in node.names:
                # `import torch.utils.checkpoint` binds torch
                bound = alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name
                found.setdefault(alias.asname or bound, set()).add(prefix + (alias.name if alias.asname else bound))
        return found

    def binds(self, name: str) -> bool:
        """Say whether the file has a class of this name, or imports or assigns one, wherever that is."""
        assigned = (node.id for node in self.find(ast.Name) if isinstance(node.ctx, ast.Store))
        classes = (node.name for node in self.find(ast.ClassDef))
        return name in {*classes, *assigned, *self._imported} or "*" in self._imported

    def names(self, node: ast.AST) -> set[str]:
        """Return the full names of what is written: `tu.LossKwargs` may be "transformers.utils.LossKwargs"."""
        root, dot, rest = dotted(node).partition(".")
        known = self._imported.get(root, set()) | ({root} if root in self.classes else set())
        if known and any(_takes(parent, root) for parent in self.parents(node)):
            return set()
        return {name + dot + rest for name in known}

    def name_of(self, module: str) -> str | None:
        """Return how the file writes a module that it imports: "nn" for "torch.nn", or None."""
        return next((name for name, full in self._imported.items() if module in full), None)

    def ancestry(self, name: str) -> list[str]:
        """Return a class's name and those of its bases within the file; foreign bases by full name."""
        found, waiting = [], [name]
        while waiting:
            current = waiting.pop(0)
            if current not in found:
                found.append(current)
                for base in self.classes[current].bases if current in self.classes else []:
                    waiting += sorted(self.names(base)) or [self.code(base)]
        return found

    # Edits

    @cached_property
    def unit(self) -> str:
        """What the file indents by."""
        for node in self.find(ast.ClassDef, ast.FunctionDef):
            if node.col_offset == 0 and (space := self._margin(self.start(node.body[0]))):
                return space
        return "    "

    def _line_start(self, place: int) -> int:
        return self._starts[bisect_right(self._starts, place) - 1]

    def _margin(self, place: int) -> str:
        """Return the space from the line's start to a place, or "" where something else stands there too."""
        margin = self.text[self._line_start(place) : place]
        return "" if margin.strip() else margin

    def _first(self, statement: ast.stmt) -> int:
        """Return where a statement starts, with its decorators."""
        decorators = getattr(statement, "decorator_list", [])
        return min([self.start(statement), *(self.text.rindex("@", 0, self.start(node)) for node in decorators)])

    def indent(self, statement: ast.stmt) -> str:
        """Return a statement's indentation, or raise UnrecognisedError if it does not start its line."""
        start = self._first(statement)
        margin = self.text[self._line_start(start) : start]
        if margin.strip():
            raise UnrecognisedError(statement, _SHARED)
        return margin

    def lines(self, statement: ast.stmt) -> tuple[int, int]:
        """Return where a statement's lines start and end, or raise UnrecognisedError if it shares them."""
        end = _REST.match(self.text, self.end(statement))
        if end is None:
            raise UnrecognisedError(statement, _SHARED)
        return self._first(statement) - len(self.indent(statement)), end.end()

    def fitted(self, text: str, indent: str) -> str:
        """Return lines, which are indented by four spaces, in the file's own indentation and line ends."""
        lines = []
        for line in text.splitlines():
            code = line.lstrip(" ")
            deeper, odd = divmod(len(line) - len(code), 4)
            lines.append(f"{indent}{self.unit * deeper}{' ' * odd}{code}{self.newline}" if code else self.newline)
        return "".join(lines)

    def before(self, statement: ast.stmt, text: str) -> Edit:
        """Insert lines before a statement, below the comment above it."""
        indent = self.indent(statement)
        place = self._first(statement) - len(indent)
        return Edit(place, place, self.fitted(text, indent))

    def after(self, statement: ast.stmt, text: str) -> Edit:
        """Insert lines after a statement."""
        (_, place), indent = self.lines(statement), self.indent(statement)
        added = self.fitted(text, indent)
        if not self.text[:place].endswith(("\n", "\r")):
            added = self.newline + added.removesuffix(self.newline)
        return Edit(place, place, added, -1 - len(indent))  # what stands deeper belongs to what ends here

    def first_in(self, block: Function | ast.ClassDef, text: str) -> Edit:
        """Insert lines before the statements of a block and the comment above them, but below its docstring."""
        first, top = block.body[0], self.start(block)
        if is_docstring(first):
            if len(block.body) == 1:
                return self.after(first, text)
            first, top = block.body[1], self.lines(first)[1]
        edit = self.before(first, text)
        place = edit.start
        while place > top and self.text[(above := self._line_start(place - 1)) : place].lstrip().startswith("#"):
            place = above
        return Edit(place, place, edit.text)

    def attribute(self, owner: ast.ClassDef, text: str) -> Edit:
        """Insert lines below the attributes that a class starts with, or where they would be."""
        lines = itertools.takewhile(lambda line: is_docstring(line) or isinstance(line, _ATTRIBUTE), owner.body)
        *_, last = [None, *(line for line in lines if isinstance(line, _ATTRIBUTE))]
        return self.after(last, text) if last else self.first_in(owner, f"{text}\n")

    def last_in(self, owner: ast.ClassDef, text: str) -> Edit:
        """Insert lines at the end of a class, after a blank one."""
        return self.after(owner.body[-1], f"\n{text}")

    def replaced(self, node: Placed, text: str) -> Edit:
        """Write something else in the place of a node."""
        if self.enclosing(node, ast.JoinedStr):
            raise UnrecognisedError(node, "it stands in an f-string")
        return Edit(self.start(node), self.end(node), text)

    def moved(self, statements: list[ast.stmt], instead: str, function: Function, heading: str) -> Move:
        """Move statements from a function to below it, as the body of what `heading` opens."""
        start, end = self.lines(statements[0])[0], self.lines(statements[-1])[1]
        instead = self.fitted(instead, self.indent(statements[0]))
        below, indent = self.after(function, ""), self.indent(function)
        return Move(start, end, instead, below.start, self.fitted(heading, indent), below.order)

    def deeper(self, statement: ast.stmt, opening: str) -> Iterator[Edit]:
        """Put a statement below lines that open a block, one step further in."""
        self.lines(statement)
        inside = {
            line
            for node in walk(statement)
            if isinstance(node, ast.JoinedStr | ast.Constant)
            for line in range(node.lineno + 1, (node.end_lineno or 0) + 1)
        }
        text = self.fitted(opening, self.indent(statement))
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1):
            start = self._starts[line - 1]
            if line not in inside and not _REST.match(self.text, start):
                yield Edit(start, start, text + self.unit, 1)
            text = ""

    def without(self, start: int, end: int) -> Edit:
        """Leave out an item of a list between two places, with its comma and the comment behind it."""
        stop = self._past(_COMMA_AND_COMMENT, end)
        if stop == end:
            return Edit(self.text.rindex(",", 0, start), end, "")
        following = self._past(_SPACE, stop)
        if self.text[following : following + 1] == ")":
            return Edit(len(self.text[:start].rstrip()), stop, "")
        return Edit(start, following, "")

    def _past(self, pattern: re.Pattern[str], place: int) -> int:
        """Return where what is matched at a place ends."""
        found = pattern.match(self.text, place)
        return found.end() if found else place

    def without_item(self, item: ast.keyword) -> Edit:
        """Leave out a keyword argument of a call that has others after it."""
        return self.without(self.start(item), self.end(item))

    def without_argument(self, function: Function, name: str) -> Edit:
        """Leave out a positional argument of a function that takes others after it."""
        [argument] = [argument for argument in function.args.args if argument.arg == name]
        return self.without(self.start(argument), self.end(self.default(function, name) or argument))

    def default(self, function: Function, name: str) -> ast.expr | None:
        """Return the default of a positional argument, or None."""
        names = list(arguments(function))
        given = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        return given.get(name)

    def appended(self, items: Sequence[Placed], text: str) -> Iterator[Edit]:
        """Add an item to a list that is given in the order of the file: on a line of its own if the others are."""
        end = self.end(items[-1])
        comma, line = self._past(_COMMA, end), self._past(_REST, self._past(_COMMA, end))
        first, last = (self._margin(self.start(item)) for item in (items[0], items[-1]))
        if comma > end and last and line > comma:
            yield Edit(line, line, f"{last}{text},{self.newline}")
        elif comma > end:
            yield Edit(comma, comma, f" {text},")
        elif first and self.is_too_wide(items[-1], f", {text}"):
            for item in items[:-1]:
                start = self._past(_COMMA, self.end(item))
                yield Edit(start, self._past(_SPACE, start), self.newline + first)
            yield Edit(end, end, f",{self.newline}{first}{text},")
        else:
            yield Edit(end, end, f", {text}")

    def is_too_wide(self, node: Placed, added: str) -> bool:
        """Say whether a line on which a node ends gets too long where something is added to it."""
        found = _NEWLINE.search(self.text, self.end(node))
        end = found.start() if found else len(self.text)
        return end - self._line_start(self.end(node)) + len(added) > WIDTH

    # Imports

    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        """Return the file's imports at its top, before the first class or function."""
        found = []
        for statement in self.tree.body:
            if isinstance(statement, ast.ClassDef | Function):
                break
            if isinstance(statement, ast.Import | ast.ImportFrom):
                found.append(statement)
        return found

    def imported(self, module: str, name: str) -> Edit:
        """Insert an import from a module where it belongs among those from the same package, or below all."""
        line, package = f"from {module} import {name}", module.partition(".")[0]
        froms = [node for node in self.imports() if isinstance(node, ast.ImportFrom) and not node.level]
        beside = [node for node in froms if _package(node) == package]
        later = [node for node in beside if (node.module or "") > module]
        if not beside:
            return self.below_imports(line)
        return self.before(later[0], line) if later else self.after(beside[-1], line)

    def with_modules(self, *names: str) -> Iterator[Edit]:
        """Import modules of the standard library that the file does not import yet, where it imports such."""
        imports = [line for line in self.imports() if _package(line) != "__future__"]
        standard = [line for line in imports if _package(line) in sys.stdlib_module_names]
        missing = [name for name in names if self.name_of(name) != name]
        if missing and not self.imports():
            raise UnrecognisedError(self.tree.body[0], _NO_IMPORTS)
        for name in missing:
            later = [line for line in standard if isinstance(line, ast.ImportFrom) or line.names[0].name > name]
            if later or not standard:
                yield self.before((later or imports or self.imports())[0], f"import {name}")
            else:
                yield self.after(standard[-1], f"import {name}")
        if missing and not standard:
            blank = self.before((imports or self.imports())[0], "\n")
            yield Edit(blank.start, blank.end, blank.text, order=1)

    def below_imports(self, text: str) -> Edit:
        """Insert a compatible import where it does not part the others: below them, after a blank line."""
        if not self.imports():
            raise UnrecognisedError(self.tree.body[0], _NO_IMPORTS)
        return self.after(self.imports()[-1], f"\n{text}")


def _package(line: ast.Import | ast.ImportFrom) -> str:
    """Return the package that an import starts from, or "" for one within the folder."""
    name = line.names[0].name if isinstance(line, ast.Import) else "" if line.level else line.module or ""
    return name.partition(".")[0]


def _takes(node: ast.AST, name: str) -> bool:
    """Say whether a node is a function with an argument of that name, which hides what the file imports."""
    if not isinstance(node, Function | ast.Lambda):
        return False
    return any(isinstance(argument, ast.arg) and argument.arg == name for argument in walk(node.args))
