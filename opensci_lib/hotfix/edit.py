"""What a rule asks for: other text in some place of the source. No rule sees what another one asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opensci_lib.errors import OpensciError


@dataclass(frozen=True)
class Edit:
    """Put `text` in the place of the characters from `start` to `end`; where these are equal, insert it."""

    start: int
    end: int
    text: str
    #: Among the insertions at one place the lower comes first, and of equals the one whose rule comes first.
    order: int = 0


@dataclass(frozen=True)
class Move:
    """Put what stands from `start` to `end` elsewhere, as the edits inside it leave it: to `to`, below `heading`."""

    start: int
    end: int
    instead: str
    to: int
    heading: str
    order: int = 0


#: An edit and the id of the rule that asks for it.
Asked = tuple[str, Edit | Move]


def apply(text: str, asked: Iterable[Asked], where: str = "the source") -> str:
    """Return a text with all edits made at once.

    Raises:
        OpensciError: when two edits overlap, naming their rules and `where` the text is from.

    """
    waiting = list(asked)
    for number, (rule, move) in enumerate(waiting):
        if isinstance(move, Move):
            before, after = waiting[:number], waiting[number + 1 :]
            inside = [one for one in before + after if _is_inside(one[1], move)]
            moved = _spliced(text, move.start, move.end, inside, where)
            halves: list[Asked] = [
                (rule, Edit(move.start, move.end, move.instead)),
                (rule, Edit(move.to, move.to, move.heading + moved, move.order)),
            ]
            # in the place of the move, so that the order of the rules is kept
            outside = [[one for one in part if one not in inside] for part in (before, after)]
            return apply(text, [*outside[0], *halves, *outside[1]], where)
    return _spliced(text, 0, len(text), waiting, where)


def _is_inside(edit: Edit | Move, move: Move) -> bool:
    """Say whether an edit goes along: what is inserted after the line above the move, or below its last, stays."""
    if edit.start == move.start and edit.start == edit.end:
        return isinstance(edit, Edit) and edit.order >= 0
    return move.start <= edit.start < move.end and edit.end <= move.end


def _spliced(text: str, start: int, end: int, asked: list[Asked], where: str) -> str:
    """Return the characters from `start` to `end` with edits made in them."""
    pieces, done, last = [], start, ""
    inserted: set[Edit] = set()
    # an insertion comes before what replaces the text there
    for rule, edit in sorted(asked, key=lambda one: (one[1].start, one[1].end > one[1].start, one[1].order)):
        if isinstance(edit, Edit) and edit.start == edit.end:
            if edit in inserted:
                continue  # two rules need the same line, such as an import
            inserted.add(edit)
        if isinstance(edit, Move) or edit.start < done:
            line = text.count("\n", 0, edit.start) + 1
            raise OpensciError(
                f"Rules {last} and {rule} change the same place of {where} (line {line}): "
                "leave one of them out with --rules."
            )
        pieces += [text[done : edit.start], edit.text]
        done, last = edit.end, rule
    return "".join([*pieces, text[done:end]])
