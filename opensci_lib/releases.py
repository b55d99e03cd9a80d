"""Releases of transformers, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Iterable


def as_numbers(release: str) -> tuple[int, ...]:
    """Return what a release is sorted by: "5.10.4" is (5, 10, 4).

    Raises:
        ValueError: when it is no release.

    """
    return tuple(int(number) for number in release.split("."))


def ascending(releases: Iterable[str]) -> list[str]:
    """Return releases, each once, in the order of their numbers: 5.9.0 before 5.10.0."""
    return sorted(set(releases), key=as_numbers)
