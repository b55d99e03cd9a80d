"""Find the first transformers release on which a model folder stops computing what it did."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import rules_that_know
from opensci_lib.model_folder import check_model_folder
from opensci_lib.reports.compare import Run, difference
from opensci_lib.runs.probe import probe

PROMPT = "The capital of France is a city on a river, and the people who live there say that it is old."


@dataclass(frozen=True)
class Bisection:
    """The outcome of `bisect`."""

    #: The last release that computes what the good one does, and the first that does not.
    last_good: str
    first_bad: str
    #: What happens on it: the error of loading, or where and why the numbers part.
    what: str
    #: Ids of the hotfix rules that know this.
    rules: tuple[str, ...]


def bisect(
    model_path: Path | str,
    good: str | None = None,
    bad: str | None = None,
    prompt: str = PROMPT,
    releases: list[str] | None = None,
    report: Callable[[str], None] = print,
) -> Bisection:
    """Find the first release whose logits, or loading, part from those of `good`, in the kernel environments.

    The folder is run exactly as it is, without the shim: any decoder that transformers can load will do.

    Args:
        model_path: a model folder.
        good: a release that is right; by default the oldest of `releases`.
        bad: a release that is wrong; by default the newest of `releases`.
        prompt: the text whose logits are compared, bit for bit, at every position.
        releases: those to choose among; by default all that have a lock file.
        report: called with a line for each release that is tried.

    Raises:
        OpensciError: when the good release fails, or the bad one computes the same.

    """
    folder = check_model_folder(model_path)
    known = releases or kernels.available()
    good, bad = good or known[0], bad or known[-1]
    if good not in known or bad not in known or known.index(good) >= known.index(bad):
        raise OpensciError(
            f"--good and --bad must be two of these releases, the older one first: {', '.join(known)}."
        )
    span = known[known.index(good) : known.index(bad) + 1]
    with tempfile.TemporaryDirectory(prefix="opensci-bisect-") as scratch:
        reference = _probe(folder, good, prompt, Path(scratch))
        if isinstance(reference, str):
            raise OpensciError(f"{folder} does not run on {good}, which should be good: {reference}")

        def wrong(release: str) -> str | None:
            outcome = _probe(folder, release, prompt, Path(scratch))
            what = outcome if isinstance(outcome, str) else _difference(reference, outcome)
            report(f"{release}: {what or f'the same as {good}, bit for bit'}")
            return what

        what = wrong(bad)
        if what is None:
            raise OpensciError(f"{folder} computes the same on {bad} as on {good}, bit for bit: nothing to look for.")
        low, high = 0, len(span) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if (found := wrong(span[middle])) is None:
                low = middle
            else:
                high, what = middle, found
    return Bisection(span[low], span[high], what, rules_that_know(what))


def _difference(reference: Run, run: Run) -> str | None:
    """Say where and why a run parts from the reference, or None where it never does."""
    try:
        return difference(reference, run, 0)
    except OpensciError as error:  # what can't be compared, such as other tokens, is not the same
        return str(error)


def _probe(folder: Path, release: str, prompt: str, scratch: Path) -> Run | str:
    """Run the folder under a release; return the run, or what it said when it failed."""
    output = scratch / release
    output.mkdir()
    return probe(folder, release, prompt, output) or Run(output)
