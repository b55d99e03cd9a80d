"""Are a model's results what they were, and the numbers of its tables what its runs say?"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from opensci_lib import compat
from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import read_json, write_json
from opensci_lib.reports import scores
from opensci_lib.reports.compare import find_runs, parity
from opensci_lib.runs import VARIANTS
from opensci_lib.runs.reference import reference_of

#: The hashes of all results, by path in a model's folder of results.
MANIFEST = "manifest.json"


@dataclass
class Verification:
    """The outcome of `verify`: what was looked at, and in sentences what is not as it should be."""

    files: int
    tables: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def write_manifest(folder: Path | str) -> Path:
    """Write down the hash of every result of a model, and return the file.

    Model folders are left out: their own records, hotfix.json and download.json, tell what is in them.
    """
    path = Path(folder) / MANIFEST
    write_json(path, _hashes(Path(folder)))
    return path


def verify(folder: Path | str) -> Verification:
    """Compare every file with the manifest, and every table with what is computed anew from captures and samples.

    Raises:
        OpensciError: when there is no manifest.

    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise OpensciError(f"{folder} has no {MANIFEST}: run `snakemake`, which writes it.")
    known, found = read_json(folder / MANIFEST), _hashes(folder)
    outcome = Verification(len(found))
    for name in sorted({*known, *found}):
        if name not in found:
            outcome.differences.append(f"{name} is missing.")
        elif name not in known:
            outcome.differences.append(f"{name} is not in the manifest.")
        elif known[name] != found[name]:
            outcome.differences.append(f"{name} is not the file that it was.")
    for name, compute in _TABLES.items():
        if (folder / name).exists():
            outcome.tables.append(name)
            outcome.differences += _compared(folder / name, compute)
    return outcome


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each result; hidden files are notes of the pipeline's own."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    parts = {path: path.relative_to(folder).parts for path in files}
    return {
        "/".join(parts[path]): _sha256(path)
        for path in files
        if parts[path][0] not in VARIANTS
        and parts[path] != (MANIFEST,)
        and not any(part.startswith(".") for part in parts[path])
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _compared(path: Path, compute: Callable[[Path, pd.DataFrame], pd.DataFrame]) -> list[str]:
    """Say where a table first differs from what is computed anew, character by character."""
    text = path.read_text(encoding="utf-8")
    try:
        anew = compute(path.parent, pd.read_csv(path, dtype=str)).to_csv(index=False)
    except (OpensciError, KeyError, ValueError) as error:
        return [f"{path.name} can't be computed anew: {error}"]
    lines = itertools.zip_longest(text.splitlines(), anew.splitlines(), fillvalue="nothing")
    for number, (there, right) in enumerate(lines, 1):
        if there != right:
            return [f"{path.name}, line {number}, says {there}, but its runs say {right}."]
    return []


def _named(rows: pd.DataFrame) -> list[str]:
    """Return the runs that a table is about, in its order."""
    return list(dict.fromkeys(rows["tf_version"] + "/" + rows["variant"]))


def _parity(folder: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    [reference] = find_runs(folder, [reference_of(folder).run])
    return parity(reference, find_runs(folder, _named(rows)))


def _evaluations(folder: Path, rows: pd.DataFrame) -> tuple[scores.Evaluation, list[scores.Evaluation]]:
    [reference] = scores.find_evaluations(folder, [reference_of(folder).run])
    return reference, scores.find_evaluations(folder, _named(rows))


#: How each table is computed from the runs: those of the table, or of the one that goes with it.
_TABLES: dict[str, Callable[[Path, pd.DataFrame], pd.DataFrame]] = {
    "parity.csv": lambda folder, rows: _parity(folder, rows)[0],
    "positions.csv": lambda folder, rows: _parity(folder, _rows(folder, "parity.csv", rows))[1],
    "evaluation.csv": lambda folder, rows: scores.score_table(*_evaluations(folder, rows)),
    "changed_items.csv": lambda folder, rows: scores.changed_items(
        *_evaluations(folder, _rows(folder, "evaluation.csv", rows))
    ),
    "compat.csv": lambda folder, rows: compat.find(folder, list(dict.fromkeys(rows["tf_version"]))),
}


def _rows(folder: Path, name: str, instead: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that names every run, where it is there."""
    return pd.read_csv(folder / name, dtype=str) if (folder / name).exists() else instead
