"""What a rule is, and how the rules are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import libcst as cst

from opensci_lib.hotfix.tree import Tree


@dataclass
class Sources:
    """The parsed files of a model folder. A rule rewrites the one that it works on and may look at all."""

    modeling: Tree
    configuration: Tree | None
    config: dict[str, Any]
    tokenizer_config: dict[str, Any] | None


@dataclass(frozen=True)
class Rule:
    """A rewrite. `before` and `after` are small sources that show it."""

    id: str
    #: What it works on: a field of `Sources`.
    target: str
    #: The releases on which the unchanged source fails.
    releases: str
    cause: str
    before: str
    after: str
    #: Rules of transformers-mlinter that the rewrite answers.
    trf: tuple[str, ...]
    #: From the folder's sources to the new module or JSON object, or None where there is nothing to do.
    rewrite: Callable[[Sources], cst.Module | dict[str, Any] | None]
    #: Other files that the example needs, by field of `Sources`.
    others: dict[str, str] = field(default_factory=dict)
    #: Words in an error, or in a verdict on two runs, by which the fault is known.
    signs: tuple[str, ...] = ()


@cache
def all_rules() -> tuple[Rule, ...]:
    """Return the rules, one per module of `opensci_lib.hotfix.rules`. None depends on another."""
    from opensci_lib.hotfix import rules

    found = [
        importlib.import_module(f"{rules.__name__}.{module.name}").RULE
        for module in pkgutil.iter_modules(rules.__path__)
    ]
    return tuple(sorted(found, key=lambda rule: rule.id))
