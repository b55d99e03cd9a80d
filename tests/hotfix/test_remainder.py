"""What stands around an edit is the same afterwards, or is named by its line."""

import pytest

from opensci_lib.hotfix.edit import Edit, Move, apply
from opensci_lib.hotfix.remainder import first_change

CODE = """\
import a


class A(B):
    x = 1

    def f(self, y=2):
        # a comment
        try:
            z = "é"
        except ValueError:
            return 3
        return 4


def g(): return 5
"""


def insert(before: str, text: str, code: str = CODE) -> Edit:
    place = code.index(before)
    return Edit(place, place, text)


def replace(old: str, new: str, code: str = CODE) -> Edit:
    start = code.index(old)
    return Edit(start, start + len(old), new)


def line_of(what: str, code: str = CODE) -> int:
    return code[: code.index(what)].count("\n") + 1


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [replace("z = ", "w = ")],
        [replace("return 3", "return 3.0"), replace("x = 1", "x = 2")],
        [insert("class A", "import b\n\n")],
        [insert("    def f", "    @staticmethod\n")],
        [insert("        # a", "        new = 1\n")],
        [replace("self, y=2", "self, *, y=2")],
        [replace("    def f(self, y=2):", "    def f(this):")],
        [replace("class A(B)", "class A(C)")],
        [replace("        return 4\n", "")],
        [replace("ValueError", "KeyError")],
        [insert('z = "', "q = 1; ")],
        [Edit(len(CODE), len(CODE), "\n\nnew = 1\n")],
        [
            Move(
                CODE.index("        return 4"),
                CODE.index("\n\ndef g"),
                "",
                CODE.index("\ndef g"),
                "def h():\n    if 1:\n",
            )
        ],
    ],
)
def test_edits_that_do_what_they_say(edits):
    after = apply(CODE, [("rule", edit) for edit in edits])
    assert first_change(CODE, after, edits, is_code=True) is None


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        ([insert("import a", '"""'), insert("class A", '"""\n')], 1),
        ([insert("    x = 1", '    """'), insert("    def f", '"""\n')], line_of("x = 1")),
        ([insert("    def f", "class C:\n")], line_of("def f")),  # f is another class's
        ([insert("    def f", "    if 1:\n        pass\n\ndef i():\n")], line_of("def f")),
        ([insert("return 5", "pass; return 6; ")], None),
        ([insert("(): return 5", "g")], line_of("def g")),
        ([insert("\n        return 4", "3")], line_of("return 3")),  # it makes 33 of what it stands behind
        ([insert("import a", "if 0:\n    pass\nelse:\n  ")], None),
    ],
)  # fmt: skip
def test_edits_that_do_more(edits, line):
    after = apply(CODE, [("rule", edit) for edit in edits])
    assert first_change(CODE, after, edits, is_code=True) == line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("import a\n", "", 1),
        ("x = 1", "x = 1.0", 5),
        ("class A(B)", "class A", 4),
        ("self, y=2", "self, y=3", 7),
        ("ValueError", "KeyError", 9),
        ('"é"', '"e"', 10),
        ("return 4", "return 5", 13),
        ("def g", "def h", 16),
        ("        return 4\n\n\ndef g(): return 5\n", "\n\ndef g(): return 5\n\nreturn_4 = 4\n", 13),
        ("    x = 1\n\n    def f", "    def f", 5),
    ],
)
def test_changes_that_no_edit_asked_for(old, new, line):
    """The edit at the other end of the file touches the class, if anything."""
    edit = replace("import a", "import a") if line > 1 else Edit(len(CODE), len(CODE), "")
    assert first_change(CODE, CODE.replace(old, new), [edit], is_code=True) in (line, line_of("class A"))


def test_the_order_counts():
    swapped = CODE.replace("import a\n\n\n", "") + "import a\n"
    assert first_change(CODE, swapped, [], is_code=True) == line_of("class A")


SETTINGS = '{"a": 1,\n"b": {"c": [1, 2],\n"d": NULL},\n"e": "f"}'.replace("NULL", "null")


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        ([], None),
        ([replace("1,\n", "2,\n", SETTINGS)], None),
        ([replace("null", "true", SETTINGS)], None),
        ([insert("}", ', "n": 1', SETTINGS)], None),
        ([insert("}", ', "c": 1', SETTINGS)], 2),
        ([insert('"e"', '"a": 2, ', SETTINGS)], 1),
        ([insert("1, 2", "3, ", SETTINGS)], None),  # the list is touched
        ([insert("1,\n", "1", SETTINGS)], 1),
    ],
)
def test_settings(edits, line):
    after = apply(SETTINGS, [("rule", edit) for edit in edits])
    assert first_change(SETTINGS, after, edits, is_code=False) == line
