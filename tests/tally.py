"""How many cases the tests tried, and how many of them came to a good end: to be said when they are over."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

tried: Counter[str] = Counter()
kept: Counter[str] = Counter()


@contextmanager
def case(kind: str) -> Generator[None]:
    """Count one case, and that it was kept if the block ends well."""
    tried[kind] += 1
    yield
    kept[kind] += 1


def summary() -> str:
    """Say how many were tried, by kind, and how many of them were lost."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(tried.items()))
    return f"Faults injected and cases tried: {tried.total()} ({kinds}); lost: {(tried - kept).total()}."
