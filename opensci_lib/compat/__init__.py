"""Which features of transformers a model folder serves on the release that runs this.

Each function in `features/` checks one of them against an independent expectation. What fails for the model is put to
native decoders of the same release too: "unsupported by this release" is only what none of them can do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from opensci_lib import project
from opensci_lib.errors import OpensciError
from opensci_lib.runs import REFERENCE_RELEASE, VARIANTS, as_numbers
from opensci_lib.scratch import scratch

if TYPE_CHECKING:
    from opensci_lib.compat.case import Case

#: The modules of `features/`, in the order in which a matrix shows them.
GROUPS = (
    "weights", "logits", "rope", "generation", "forward", "auto",
    "saving", "training", "parallel", "shapes", "attention", "kernels", "messages", "tokenizer",
)  # fmt: skip
OK, FAILS, UNSUPPORTED = "ok", "fails", "unsupported by this release"


@dataclass(frozen=True)
class Feature:
    """One feature: `check` raises when the case that it is given doesn't have it."""

    group: str
    name: str
    basic: bool  # also asked of a folder that is only meant to load
    compiled: bool  # takes the compiler, and with it some ten seconds
    check: Callable[[Case], None]

    @property
    def title(self) -> str:
        """Its group and name in one: names alone are not unique."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class Result:
    """What became of one feature: a row of `compat.json`; `error` is one line, empty where all is well."""

    group: str
    feature: str
    result: str
    seconds: float
    error: str


_FEATURES: list[Feature] = []


def feature(
    name: str, basic: bool = False, compiled: bool = False
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register the function below as the check of a feature; its group is what its module is called."""

    def register(check: Callable[[Case], None]) -> Callable[[Case], None]:
        _FEATURES.append(Feature(check.__module__.rpartition(".")[2], name, basic, compiled, check))
        return check

    return register


def all_features(reference: str = REFERENCE_RELEASE) -> list[Feature]:
    """Return the features of all groups, in order; their names say "{reference}" for the release compared with."""
    for group in GROUPS:
        import_module(f"opensci_lib.compat.features.{group}")
    return [replace(feature, name=feature.name.replace("{reference}", reference)) for feature in _FEATURES]


def check(
    folder: Path | str,
    reference: Path | str,
    basic: bool = False,
    features: list[str] | None = None,
    compiled: bool = True,
) -> list[Result]:
    """Check every feature of a model folder on this release, or only some.

    Args:
        folder: the model folder, run as it is.
        reference: what `opensci_lib.compat.reference` wrote for this model under its reference.
        basic: only whether it loads and computes right.
        features: only these, each as "group: name".
        compiled: also those that take the compiler.

    Raises:
        OpensciError: when there is no feature of a name.

    """
    from opensci_lib.compat import native
    from opensci_lib.compat.case import Case, surroundings
    from opensci_lib.compat.reference import made_under

    chosen = choose(all_features(made_under(reference)), basic, features, compiled)
    with scratch() as work, surroundings():
        case = Case(Path(folder), work / "model", reference=Path(reference))
        return judge(chosen, case, lambda: native.cases(work))


def choose(
    known: list[Feature], basic: bool = False, names: list[str] | None = None, compiled: bool = True
) -> list[Feature]:
    """Return the features asked for, in the order in which they are known.

    Raises:
        OpensciError: when a name, "group: name", is none of theirs.

    """
    if unknown := set(names or []) - {feature.title for feature in known}:
        raise OpensciError(
            f"There is no feature {', '.join(map(repr, sorted(unknown)))}: see docs/compat.csv for all."
        )
    return [
        feature
        for feature in known
        if (feature.basic or not basic)
        and (compiled or not feature.compiled)
        and (names is None or feature.title in names)
    ]


def judge(features: list[Feature], case: Case, judges: Callable[[], dict[str, Case]]) -> list[Result]:
    """Return what becomes of each feature of a case, in order.

    Args:
        features: what is checked.
        case: the folder that is checked.
        judges: gives the release's own decoders by name; asked only for what the case fails.

    """
    results = []
    for feature in tqdm(features, "features"):
        begun = time.perf_counter()
        result, error = OK, _error(feature, case)
        if error:
            found = {name: _error(feature, native) for name, native in judges().items()}
            # What a decoder of the release itself can't do either is no fault of this model.
            result = UNSUPPORTED if found and all(found.values()) else FAILS
            error = " | ".join([error, *(f"{name}: {text}" for name, text in found.items() if text)])
        seconds = round(time.perf_counter() - begun, 2)
        results.append(Result(feature.group, feature.name, result, seconds, error))
    return results


def save(results: dict[str, list[Result]], path: Path | str, **settings: Any) -> None:
    """Write {variant: results} with this release, the time taken and `settings` as `compat.json`."""
    from importlib.metadata import version

    from opensci_lib.model_folder import write_json

    rows = [{"variant": variant, **asdict(result)} for variant, checked in results.items() for result in checked]
    write_json(
        Path(path), {"tf_version": version("transformers"), "torch": version("torch"), **settings, "results": rows}
    )


def gather(paths: list[Path]) -> pd.DataFrame:
    """Return the rows of several `compat.json`, with `tf_version` before them, releases ascending."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records.sort(key=lambda record: as_numbers(record["tf_version"]))
    rows = [{"tf_version": record["tf_version"], **row} for record in records for row in record["results"]]
    return pd.DataFrame(rows, columns=["tf_version", "variant", *(field.name for field in fields(Result))])


def find(folder: Path | str, tf_versions: list[str] | None = None) -> pd.DataFrame:
    """Return the rows of every `compat.json` below `outputs/<model>`: of some releases, or of all that are there.

    Raises:
        OpensciError: when one that is named, or any at all, is not there.

    """
    wanted = [Path(folder) / release / "compat.json" for release in tf_versions or []]
    paths = wanted if tf_versions is not None else sorted(Path(folder).glob("*/compat.json"))
    if missing := [path for path in paths if not path.exists()] or (
        [] if paths else [Path(folder) / "*/compat.json"]
    ):
        raise OpensciError(f"There is no {missing[0]}: `snakemake {Path(folder)}/compatibility.html` makes it.")
    return gather(paths)


def _error(feature: Feature, case: Case) -> str:
    """Return why `case` doesn't have the feature, in one line, or nothing where it does."""
    try:
        with case.fresh():
            feature.check(case)
    except Exception as error:  # whatever it is, it is this check's outcome and goes to the table
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        # Results are shown to others: they need not know where this checkout lies.
        return f"{type(error).__name__}: {line.replace(f'{project.ROOT}/', '')}"[:300]
    return ""


def support_table(compat: pd.DataFrame) -> str:
    """Return the README's table: what each state of the folder does, releases of the same answer in one row."""
    rows: list[tuple[list[str], tuple[str, ...]]] = []
    for release, results in compat.groupby("tf_version", sort=False):
        states = {variant: state(of) for variant, of in results.groupby("variant")}
        answer = tuple(states.get(variant, "not checked") for variant in VARIANTS)
        if rows and rows[-1][1] == answer:
            rows[-1][0].append(str(release))
        else:
            rows.append(([str(release)], answer))
    lines = ["| transformers | unmodified folder | minimal | fixed |", "|---|---|---|---|"]
    for releases, answer in rows:
        span = releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]} ({len(releases)} releases)"
        lines.append(f"| {span} | {' | '.join(answer)} |")
    return "\n".join(lines)


#: What a failed group of basic checks means, in words.
_FAILURES = {
    "weights": "weights overwritten",
    "rope": "RoPE from uninitialised memory",
    "logits": "wrong logits",
    "auto": "does not load",
}


def state(results: pd.DataFrame) -> str:
    """Say what the results of one state of the folder on one release come to."""
    found = list(results["result"])
    failed = set(results[results["result"] == FAILS]["group"])
    if "auto" in failed and OK not in found:
        return "does not load"
    if failed:
        words = [words for group, words in _FAILURES.items() if group in failed]
        return "wrong: " + ", ".join([*words, *(f"{group} fails" for group in sorted(failed - _FAILURES.keys()))])
    beside = f", {found.count(UNSUPPORTED)} unsupported by the release" if UNSUPPORTED in found else ""
    return f"{found.count(OK)} of {len(found)} checks ok{beside}"
