import pytest

from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.edit import Edit, Move, apply


def made(text, *edits):
    return apply(text, [(f"rule-{number}", edit) for number, edit in enumerate(edits)])


def test_places_are_those_of_the_source():
    assert made("0123456789", Edit(8, 9, "eight"), Edit(0, 1, ""), Edit(4, 4, "-")) == "123-4567eight9"


def test_insertions_at_one_place_come_in_the_order_of_the_rules():
    assert (
        made("ab", Edit(1, 1, "1"), Edit(1, 1, "2"), Edit(1, 1, "0", -1), Edit(1, 2, "B"), Edit(1, 1, "3"))
        == "a0123B"
    )


def test_neighbours_do_not_overlap():
    assert made("abcd", Edit(0, 2, "x"), Edit(2, 2, "-"), Edit(2, 4, "y")) == "x-y"


@pytest.mark.parametrize("second", [Edit(2, 4, ""), Edit(1, 3, ""), Edit(2, 2, "x"), Edit(0, 5, ""), Edit(1, 2, "")])
def test_an_overlap_names_both_rules_and_the_line(second):
    with pytest.raises(OpensciError) as caught:
        apply("\nbcdef", [("one", Edit(1, 3, "x")), ("other", second)], "model.py")
    message = str(caught.value)
    assert "one" in message
    assert "other" in message
    assert "of model.py (line " in message
    assert "--rules" in message


MOVE = Move(2, 5, "-", 7, ">")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([MOVE], "01-56>234789"),
        ([MOVE, Edit(3, 4, "three")], "01-56>2three4789"),  # what stands in it goes along
        ([Edit(2, 2, "in"), MOVE], "01-56>in234789"),
        ([Edit(2, 2, "out", -1), MOVE], "01out-56>234789"),
        ([Edit(5, 5, "out"), MOVE], "01-out56>234789"),
        ([Edit(7, 7, "a"), MOVE, Edit(7, 7, "b")], "01-56a>234b789"),
        ([MOVE, Move(8, 9, "", 0, "8")], "8801-56>23479"),
    ],
)
def test_a_move_takes_the_edits_inside_it_along(edits, expected):
    assert made("0123456789", *edits) == expected


def test_an_edit_that_reaches_out_of_a_move_is_refused():
    with pytest.raises(OpensciError, match="change the same place"):
        made("0123456789", MOVE, Edit(4, 6, ""))
