"""What a rule is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from opensci_lib.hotfix.edit import Edit, Move
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import Source

_RELEASE = re.compile(r"\d+\.\d+")
#: What a rule yields.
Edits = Iterator[Edit | Move]


@dataclass
class Sources:
    """The files of a model folder. A rule changes the one that it works on and may look at all.

    Modelling code may be many files. A rule for it is asked once for each.
    """

    #: The file to be changed by rules for modelling code; for others that of the causal language model.
    modeling: Source
    configuration: Source | None
    config: Settings
    tokenizer_config: Settings | None
    #: All modelling code by module, `modeling` among it.
    code: dict[str, Source] = field(default_factory=dict)
    tokenizer: Settings | None = None


@dataclass(frozen=True)
class Rule:
    """A rewrite. `before` and `after` are small sources that show it.

    Without `after` it is a refusal: of what would be imported and be silently wrong, and has no cure yet.
    """

    id: str
    #: The releases on which the unchanged source fails: "all", or such as "4.52", "5.0 and 5.1", "5.4 to 5.12" and
    #: "5.0 and later", several with commas.
    releases: str
    cause: str
    before: str
    after: str | None
    #: From the folder's sources to what must change in the target: nothing where there is nothing to do.
    edits: Callable[[Sources], Edits]
    #: What it works on: a field of `Sources`.
    target: str = "modeling"
    #: Rules of transformers-mlinter that the rewrite answers.
    trf: tuple[str, ...] = ()
    #: Other files that the example needs, by field of `Sources`.
    others: dict[str, str] = field(default_factory=dict)
    #: Words in an error, or in a verdict on two runs, by which the fault is known.
    signs: tuple[str, ...] = ()

    def concerns(self, first: str, last: str | None = None) -> bool:
        """Say whether the unchanged source fails on any release from `first` to `last`, or on any later one."""
        if self.releases == "all":
            return True
        for span in self.releases.split(","):
            start, *_, end = 2 * [_minor(found) for found in _RELEASE.findall(span)]
            if (last is None or start <= _minor(last)) and ("later" in span or end >= _minor(first)):
                return True
        return False


def _minor(release: str) -> tuple[int, ...]:
    """Return what counts of a release, with or without its last number: "5.10.4" and "5.10" are (5, 10)."""
    return tuple(int(number) for number in release.split(".")[:2])
