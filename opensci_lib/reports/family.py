"""Models and revisions side by side: the results of each, as one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from opensci_lib.errors import OpensciError


def find_models(outputs: Path | str) -> list[Path]:
    """Return the folders below `outputs/` that hold a model's results, by name."""
    return sorted(path.parent for path in Path(outputs).glob("*/parity.csv"))


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of results. A token in it may be "NA" or "null"; only an empty cell is NaN."""
    return pd.read_csv(path, dtype={"tf_version": str}, keep_default_na=False, na_values=[""])


def gather(folders: list[Path | str], table: str) -> pd.DataFrame:
    """Stack one table of several models, such as `parity.csv`, in the order of `folders`.

    Returns its rows behind two more columns, `model` and `revision` (empty for the default one), as the folder's name
    tells them.

    Raises:
        OpensciError: when there is no such table in one of the folders.

    """
    frames = []
    for folder in map(Path, folders):
        if not (folder / table).exists():
            raise OpensciError(f"{folder} holds no {table}: run `snakemake {folder / 'index.html'}` first.")
        model, _, revision = folder.name.partition("@")
        frame = read_table(folder / table)
        frame.insert(0, "model", model)
        frame.insert(1, "revision", revision)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def label(model: str, revision: str) -> str:
    """Return how figures name a checkpoint: its revision, below its model's name where it has none."""
    return f"{model.rpartition('--')[2]} {revision}".strip()
