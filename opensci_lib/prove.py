"""Prove that a hotfixed decoder computes on every release what the unmodified one computes on its own.

The code of the folder is run, in kernel environments only: on a small twin with random weights, or on the folder's
own weights. The reference is found: the oldest release under which the unmodified folder loads and repeats itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opensci_lib import kernels
from opensci_lib.check import CHECKS, LACKING, lacking
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.model_folder import code_digest, read_config
from opensci_lib.runs import ascending
from opensci_lib.runs.logits import abs_diff, same_bits
from opensci_lib.runs.reference import Reference

_WORK = """
import json, sys
import numpy
from opensci_lib.check import check
from opensci_lib.runs.tensors import bits
from opensci_lib.twin import twin

folder, like, output, attention = sys.argv[1:]
if like:
    twin(like, folder)
report = check(folder, attn_implementation=attention or None)
if report.logits is not None:
    numpy.save(f"{output}/logits.npy", report.logits)
with open(f"{output}/report.json", "w") as file:
    json.dump(report.as_json(), file)
"""
#: What the reference must have: that the folder loads, holds its checkpoint and repeats itself.
_BASIC = ("loads", "checkpoint", "forward")


@dataclass(frozen=True)
class Outcome:
    """What came of a folder on one release."""

    tf_version: str
    #: The fault of each check that was made, empty where there is none.
    faults: dict[str, str]
    attn_implementation: str | None = None
    logits: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Proof:
    """The outcome of `prove`."""

    reference: str
    #: Of the unmodified folder there.
    original: Outcome
    #: Of the fixed one, on the reference and each later release, ascending.
    outcomes: list[Outcome]
    #: The digest of the fixed code.
    digest: str
    #: Ids of the rules that changed something.
    applied: list[str]

    def equal(self, outcome: Outcome) -> bool:
        """Whether a release gives the reference's logits bit for bit."""
        ours, theirs = self.original.logits, outcome.logits
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return False
        return bool(same_bits(ours, theirs).all())

    def faults(self, outcome: Outcome) -> dict[str, str]:
        """Return by check what is wrong on a release and was not so with the unmodified folder on the reference."""
        return {name: what for name, what in outcome.faults.items() if what and not self._is_old(name, what)}

    def _is_old(self, check: str, what: str) -> bool:
        """Whether the reference fails in this way too: by an error of the same kind, or in the same words.

        An error there and wrong numbers here would be a loud fault that became a quiet one.
        """
        before = self.original.faults.get(check, "")
        return what.partition(":")[0] == before.partition(":")[0]

    def holds(self, outcome: Outcome) -> bool:
        """Whether a release computes the reference's logits and has no fault that the reference lacks."""
        return self.equal(outcome) and not self.faults(outcome)

    @property
    def releases(self) -> list[str]:
        """The releases for which it is proven."""
        return [outcome.tf_version for outcome in self.outcomes if self.holds(outcome)]

    @property
    def is_proven(self) -> bool:
        """Whether it is proven for every release that was tried, from the reference on."""
        return len(self.releases) == len(self.outcomes)

    def record(self, command: str) -> dict[str, Any]:
        """Return what `hotfix.json` keeps of it: JSON."""
        return {
            "digest": self.digest,
            "reference": self.reference,
            "releases": self.releases,
            "date": date.today().isoformat(),
            "command": command,
        }

    def table(self) -> pd.DataFrame:
        """Return a row a release: `tf_version`, a word for each check and for the logits.

        A check is "ok", "as reference" where the unmodified folder fails it on the reference too, "fault", or "-"
        where it was not made. Logits are "equal", or by how much they differ at most.
        """
        rows = []
        for outcome in self.outcomes:
            words = {name: self._word(outcome, name) for name in CHECKS}
            rows.append({"tf_version": outcome.tf_version, **words, "logits": self._difference(outcome)})
        return pd.DataFrame(rows)

    def _word(self, outcome: Outcome, check: str) -> str:
        if check not in outcome.faults:
            return "-"
        if not outcome.faults[check]:
            return "ok"
        return "as reference" if self._is_old(check, outcome.faults[check]) else "fault"

    def _difference(self, outcome: Outcome) -> str:
        ours, theirs = self.original.logits, outcome.logits
        if theirs is None or ours is None:
            return "-"
        if self.equal(outcome):
            return "equal"
        return f"{abs_diff(ours, theirs).max():.3g}" if ours.shape == theirs.shape else "other shape"


def prove(
    src_dir: Path | str,
    tf_versions: list[str] | None = None,
    weights: bool = False,
    packages: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Proof:
    """Find a folder's reference, hotfix it, and compare it with the reference on every release from there on.

    Args:
        src_dir: a model folder, of which code and configuration are enough. A folder without code of its own, or
            one that no rule changes, is put to the releases as it is.
        tf_versions: the releases; by default all that have a lock file.
        weights: prove the folder with its own weights, not a twin of it.
        packages: put on top of each kernel environment for it, as the folder's code needs them.
        report: called with a line for each step.

    Raises:
        OpensciError: when no release is its reference, packages are missing, or a rule refuses the code; then
            nothing was proven.

    """
    source = Path(src_dir).absolute()
    config = read_config(source)
    releases = ascending(tf_versions or kernels.available())
    with tempfile.TemporaryDirectory(prefix="opensci-prove-") as place:
        work = Path(place)
        original = source if weights else work / "original"
        first, _ = _reference(source, original, releases, work, packages, report)
        applied, fixed = [], original
        if config.get("auto_map"):
            outcome = hotfix(original, work / "fixed")
            applied, fixed = list(outcome.applied), Path(outcome.dst_dir)
        outcomes = []
        for release in releases[releases.index(first.tf_version) :]:
            found = _run(fixed, release, work, packages, first.attn_implementation)
            outcomes.append(found)
            so_far = Proof(first.tf_version, first, [found], "", [])
            wrong = [f"{name}: {what}" for name, what in so_far.faults(found).items()]
            equal = [] if so_far.equal(found) else [f"logits: {so_far._difference(found)}"]
            report(f"{release}: {'; '.join([*wrong, *equal]) or 'equal'}")
        return Proof(first.tf_version, first, outcomes, code_digest(fixed), applied)


def find_reference(
    src_dir: Path | str,
    tf_versions: list[str] | None = None,
    weights: bool = False,
    packages: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Reference:
    """Return the oldest release under which the unmodified folder loads, holds its checkpoint and repeats itself.

    The arguments and errors are those of `prove`, which looks for it in the same way.
    """
    source = Path(src_dir).absolute()
    read_config(source)
    releases = ascending(tf_versions or kernels.available())
    with tempfile.TemporaryDirectory(prefix="opensci-reference-") as place:
        original = source if weights else Path(place) / "original"
        first, failed = _reference(source, original, releases, Path(place), packages, report)
    return Reference(first.tf_version, True, failed)


def _reference(
    source: Path,
    original: Path,
    releases: list[str],
    work: Path,
    packages: Sequence[str],
    report: Callable[[str], None],
) -> tuple[Outcome, dict[str, str]]:
    """Return what the unmodified folder computes on the first release that can, and what it fails of before.

    The twin is made there.
    """
    said: dict[str, str] = {}
    for release in releases:
        like = source if source != original else None
        found = _run(original, release, work, packages, None, like)
        wrong = [found.faults.get(name, "not checked") for name in _BASIC]
        if not any(wrong):
            report(f"{release}: the reference, the first release on which the unmodified folder repeats itself")
            return found, said
        said[release] = next(what for what in wrong if what)
        if said[release].startswith(LACKING):
            raise OpensciError(f"{source}: {said[release]}.")
        report(f"{release}: not the reference: {said[release]}")
        if like is not None and original.exists():
            original.rename(work / f"{original.name}-{release}")
    raise OpensciError(f"{source} runs on none of {', '.join(releases)}, on the last: {said[releases[-1]]}")


def _run(
    folder: Path,
    release: str,
    work: Path,
    packages: Sequence[str],
    attention: str | None,
    like: Path | None = None,
) -> Outcome:
    """Check a folder under a release, and make it there where it is to be a twin."""
    with tempfile.TemporaryDirectory(dir=work) as output:
        arguments = (folder, like or "", output, attention or "")
        result = kernels.run(release, "-c", _WORK, *arguments, packages=packages, capture_output=True, text=True)
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
            what = lines[-1].removeprefix(f"{OpensciError.__module__}.{OpensciError.__name__}: ")
            return Outcome(release, {"loads": lacking(result.stderr) or what})
        record: dict[str, Any] = json.loads((Path(output) / "report.json").read_text(encoding="utf-8"))
        logits = Path(output) / "logits.npy"
        return Outcome(
            release,
            {finding["check"]: finding["fault"] for finding in record["findings"]},
            record["attn_implementation"],
            np.load(logits) if logits.exists() else None,
        )
