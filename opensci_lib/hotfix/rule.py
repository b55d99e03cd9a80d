"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from opensci_lib.hotfix.edit import Edit, Move
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import Source

#: What a rule yields.
Edits = Iterator[Edit | Move]


@dataclass
class Sources:
    """The files of a model folder. A rule changes the one that it works on and may look at all."""

    modeling: Source
    configuration: Source | None
    config: Settings
    tokenizer_config: Settings | None
    tokenizer: Settings | None = None


@dataclass(frozen=True)
class Rule:
    """A rewrite. `before` and `after` are small sources that show it."""

    id: str
    #: The releases on which the unchanged source fails.
    releases: str
    cause: str
    before: str
    after: str
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
