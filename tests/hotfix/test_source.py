"""Places, names and layout, whatever the file looks like."""

import ast

import pytest

from opensci_lib.hotfix.edit import apply
from opensci_lib.hotfix.source import Source, UnrecognisedError


def made(source: Source, *edits) -> str:
    return apply(source.text, [("rule", edit) for edit in edits])


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_columns_behind_letters_of_several_bytes(newline):
    source = Source(newline.join(["# ü", "x = 'ää€𝄞', call(1, 'ß')  # ü", "y = '\u2028', (call(2))", ""]))
    assert [source.code(call) for call in source.find(ast.Call)] == ["call(1, 'ß')", "call(2)"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [("a.b", "a"), ("(a).b", "(a)"), ("((a + c)).b", "((a + c))"), ("(\n    a\n    .d\n    .b\n)", "a\n    .d")],
)
def test_what_stands_before_a_dot_keeps_its_parentheses(code, expected):
    source = Source(code)
    assert source.before_dot(next(node for node in source.find(ast.Attribute) if node.attr == "b")) == expected


@pytest.mark.parametrize(
    ("imported", "written", "full"),
    [
        ("import torch.nn", "torch.nn.init", {"torch.nn.init"}),
        ("import torch.nn as layers", "layers.init", {"torch.nn.init"}),
        ("from torch import nn as layers", "layers.init", {"torch.nn.init"}),
        ("from . import nn", "nn.init", {".nn.init"}),
        ("try:\n    from a import x\nexcept ImportError:\n    from b import x", "x", {"a.x", "b.x"}),
        ("class A: ...", "A.x", {"A.x"}),
        ("def f(nn): ...", "nn.init", set()),
        ("", "f().x", set()),
    ],
)
def test_names_are_resolved_through_imports_and_classes(imported, written, full):
    source = Source(f"{imported}\n{written}\n")
    assert source.names(source.tree.body[-1].value) == full


def test_an_argument_hides_what_is_imported():
    source = Source("import torch\ndef f(x, *, torch):\n    return lambda: torch.x\n")
    assert source.names(source.find(ast.Attribute)[0]) == set()


TABBED = """\
@decorator
class A(B):
\t'''Doc.
\t# no comment'''
\t# why
\tx = 1  # one

\t@property
\tdef f(self):
\t\treturn '''
text
''', (
\t\t\t2)
"""


def test_lines_are_added_in_the_indentation_of_the_file():
    source = Source(TABBED)
    [owner] = source.tree.body
    function = owner.body[-1]
    edits = [
        source.last_in(owner, "def g(self):\n    return 3"),
        source.first_in(owner, "y = 2"),
        source.after(owner.body[1], "z = 3"),
        source.before(function, "# above"),
        *source.deeper(function.body[0], "if x:\n    pass\nelse:\n"),
        source.after(owner, "\nA.done = True"),
    ]
    assert made(source, *edits) == (
        TABBED.replace("\t# why", "\ty = 2\n\t# why")
        .replace("# one\n", "# one\n\tz = 3\n")
        .replace("\t@property", "\t# above\n\t@property")
        .replace("\t\treturn", "\t\tif x:\n\t\t\tpass\n\t\telse:\n\t\t\treturn")
        .replace("\t\t\t2)\n", "\t\t\t\t2)\n\n\tdef g(self):\n\t\treturn 3\n\nA.done = True\n")
    )


def test_a_file_that_does_not_end_its_last_line():
    source = Source("class A:\n    x = 1")
    [owner] = source.tree.body
    edits = [source.last_in(owner, "def f(self): ..."), source.after(owner, "\nA()")]
    assert made(source, *edits) == "class A:\n    x = 1\n\n    def f(self): ...\n\nA()"


@pytest.mark.parametrize(
    "code", ["class A: x = 1\n", "class A:\n    x = 1; y = 2\n", "class A:\n    y = 1; \n", "class A: 'doc'; y = 2\n"]
)
def test_a_line_that_is_shared_is_unrecognised(code):
    source = Source(code)
    [owner] = source.tree.body
    with pytest.raises(UnrecognisedError) as caught:
        source.last_in(owner, "z = 3")
    assert "shares its line" in caught.value.what


def test_a_node_in_an_f_string_is_unrecognised():
    source = Source("x = f'{a.b}'\n")
    with pytest.raises(UnrecognisedError) as caught:
        source.replaced(source.find(ast.Attribute)[0], "c")
    assert "f-string" in caught.value.what


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("f(a, X, b)", "f(a, b)"),
        ("f(a, X)", "f(a)"),
        ("f(a, X,)", "f(a,)"),
        ("f(\n    X,  # why\n    b,\n)", "f(\n    b,\n)"),
        ("f(\n    a,\n    X,  # why\n)", "f(\n    a,\n)"),
        ("f(\n    a,\n    X\n)", "f(\n    a\n)"),
    ],
)
def test_an_item_goes_with_its_comma_and_comment(before, after):
    source = Source(before)
    [item] = [node for node in source.find(ast.Name) if node.id == "X"]
    assert made(source, source.without(source.start(item), source.end(item))) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("f(a)", "f(a, x=1)"),
        ("f(a,)", "f(a, x=1,)"),
        ("f(\n    a,\n    b,  # why\n)", "f(\n    a,\n    b,  # why\n    x=1,\n)"),
        ("f(\n    a, b\n)", "f(\n    a, b, x=1\n)"),
        (f"f(\n    {'a' * 60}, {'b' * 60}\n)", f"f(\n    {'a' * 60},\n    {'b' * 60},\n    x=1,\n)"),
    ],
)
def test_an_argument_is_appended_as_the_others_stand(before, after):
    source = Source(before)
    [call] = source.find(ast.Call)
    assert made(source, *source.appended([*call.args, *call.keywords], "x=1")) == after
