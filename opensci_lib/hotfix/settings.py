"""A JSON object as rules see it: its values, and how to set one in the layout of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from opensci_lib.hotfix.edit import Edit

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,:]*")


class Settings(Mapping[str, Any]):
    """The object that the text of a JSON file stands for."""

    def __init__(self, text: str):
        self.text = text
        self._values: dict[str, Any] = json.loads(text)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def set(self, *path: str, value: Any) -> Edit:
        """Give the key at the end of a path of keys a value: in its place, or else after the last key beside it.

        Where the keys are sorted, as transformers writes them, a new one goes where it belongs.
        """
        start = self.text.index("{")
        for key in path[:-1]:
            start = self.members(start)[key][1]
        members = self.members(start)
        if path[-1] in members:
            _, begin, end = members[path[-1]]
            return Edit(begin, end, _written(value))
        if not members:
            return Edit(start + 1, start + 1, f"{_written(path[-1])}: {_written(value)}")
        *others, (key, begin, end) = members.values()
        space = self.text[others[-1][2] if others else start + 1 : key].lstrip(",")
        before, newline, indent = space.rpartition("\n")
        if newline:
            added = _written(value, indent, "\r\n" if before.endswith("\r") else "\n")
        else:
            space, added = space if others else " ", _written(value)
        colon = self.text[self.text.rindex('"', key, self.text.rindex(":", key, begin)) + 1 : begin]
        smaller = [end for name, (_, _, end) in members.items() if name < path[-1]]
        place = smaller[-1] if smaller and [*members] == sorted(members) else end
        return Edit(place, place, f",{space}{_written(path[-1])}{colon}{added}")

    def swap(self, *path: str, old: str, new: str) -> Edit:
        """Write `new` for the last `old` in the text that the key at the end of a path of keys has as its value."""
        start = self.text.index("{")
        for key in path:
            _, start, end = self.members(start)[key]
        place = self.text.rindex(old, start, end)
        return Edit(place, place + len(old), new)

    def members(self, start: int) -> dict[str, tuple[int, int, int]]:
        """Return for each key of the object at `start` where it stands, and where its value starts and ends."""
        found, place = {}, _skip(self.text, start + 1)
        while self.text[place] != "}":
            key, end = _DECODER.raw_decode(self.text, place)
            begin = _skip(self.text, end)
            _, end = _DECODER.raw_decode(self.text, begin)
            found.pop(key, None)  # of a key that stands twice the last counts
            found[key] = (place, begin, end)
            place = _skip(self.text, end)
        return found


def _skip(text: str, place: int) -> int:
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _written(value: Any, indent: str | None = None, newline: str = "\n") -> str:
    written = json.dumps(value, indent=indent, ensure_ascii=False)
    return written.replace("\n", newline + indent) if indent else written
