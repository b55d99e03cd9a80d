"""Read the evaluations of several runs and compare them with the reference, item by item."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.statistics import compare_items

#: Scores of the 1.7B model that others published, with their source.
PUBLISHED = Path(__file__).with_name("published.csv")
ACCURACY, NATS = "accuracy", "nats per token"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` wrote for one run."""

    path: Path
    tf_version: str
    variant: str

    @cached_property
    def results(self) -> dict[str, Any]:
        """What `eval.json` holds."""
        return json.loads((self.path / "eval.json").read_text(encoding="utf-8"))

    @cached_property
    def positions(self) -> pd.DataFrame:
        """The tokens of the perplexity tasks."""
        return pd.read_parquet(self.path / "positions.parquet")

    @cached_property
    def items(self) -> pd.DataFrame:
        """All items that are compared: those with a right answer, and each token of the perplexity tasks.

        Columns: `task`, `metric`, `doc_id`, `text`, `target`, `value`, `prediction`, `loglikelihoods`.
        """
        samples = pd.read_parquet(self.path / "samples.parquet")
        answered = samples[samples["correct"].notna()].assign(metric=ACCURACY, value=samples["correct"])
        tokens = self.positions.assign(
            metric=NATS,
            text="token " + self.positions["position"].astype(str),
            target="",
            value=self.positions["nats"],
            prediction="",
            loglikelihoods=[[-nats] for nats in self.positions["nats"]],
        )
        columns = ["task", "metric", "doc_id", "text", "target", "value", "prediction", "loglikelihoods"]
        return pd.concat([answered[columns], tokens[columns]], ignore_index=True)


def find_evaluations(folder: Path, runs: list[str] | None = None) -> list[Evaluation]:
    """Return the evaluations below `outputs/<model>`: those of `runs` ("<tf_version>/<variant>"), or all.

    Raises:
        OpensciError: when one that is named, or any at all, is not there.

    """
    if runs is None:
        paths = [path.parent for path in folder.glob("*/*/eval.json")]
        order = {"original": 0, "minimal": 1, "fixed": 2}
        paths.sort(key=lambda path: ([int(part) for part in path.parent.name.split(".")], order[path.name]))
    else:
        paths = [folder / run for run in runs]
    missing = [path for path in paths if not (path / "eval.json").exists()]
    if missing or not paths:
        raise OpensciError(f"{(missing or [folder])[0]} has no evaluation: run `snakemake evaluation` first.")
    return [Evaluation(path, path.parent.name, path.name) for path in paths]


def score_table(reference: Evaluation, runs: list[Evaluation]) -> pd.DataFrame:
    """Return the rows of `evaluation.csv`: one per run and task, with the fields of `statistics.Comparison`."""
    rows = []
    for run in runs:
        for task, items in run.items.groupby("task", sort=False):
            right = reference.items[reference.items["task"] == task]
            if right.empty:
                raise OpensciError(f"{reference.path} was not evaluated on {task}: give all runs the same tasks.")
            [metric] = items["metric"].unique()
            compared = asdict(compare_items(right, items))
            rows.append(
                {"tf_version": run.tf_version, "variant": run.variant, "task": task, "metric": metric, **compared}
            )
    return pd.DataFrame(rows)


def changed_items(reference: Evaluation, runs: list[Evaluation]) -> pd.DataFrame:
    """Return the items whose prediction is not the reference's: run, task, text, target, both predictions."""
    rows = []
    for run in runs:
        both = run.items.merge(reference.items, on=["task", "metric", "doc_id", "text"], suffixes=("", "_reference"))
        changed = both[both["prediction"] != both["prediction_reference"]]
        columns = ["task", "doc_id", "text", "target", "prediction_reference", "prediction"]
        rows.append(changed[columns].assign(tf_version=run.tf_version, variant=run.variant))
    return pd.concat(rows, ignore_index=True)


def verdict(table: pd.DataFrame) -> list[str]:
    """Say in a sentence per variant what the table shows."""
    sentences = []
    for variant, rows in table.groupby("variant", sort=False):
        releases = rows["tf_version"].unique()
        equal = [release for release, of in rows.groupby("tf_version", sort=False) if of["equal"].all()]
        items = int(rows[rows["metric"] == ACCURACY].groupby("tf_version")["items"].sum().max())
        if len(equal) == len(releases):
            sentences.append(
                f"**{variant}** scores exactly what the reference scores on all {len(releases)} releases: every "
                f"log-likelihood of {items} items and of every token is equal bit for bit."
            )
            continue
        parts = []
        for release, of in rows[~rows["tf_version"].isin(equal)].groupby("tf_version", sort=False):
            parts.append(
                f"{release}: " + "; ".join(_change(row) for row in of.to_dict("records") if not row["equal"])
            )
        sentences.append(
            f"**{variant}** differs on {len(parts)} of {len(releases)} releases. " + ". ".join(parts) + "."
        )
    return sentences


def _change(row: dict[str, Any]) -> str:
    change = f"{row['task']} {row['reference']:.3f} to {row['score']:.3f} {row['metric']}"
    if row["metric"] == NATS:
        return change
    return f"{change} (McNemar p = {row['p_value']:.1g}, {row['changed']} of {row['items']} predictions changed)"


def published() -> pd.DataFrame:
    """Return scores of the 1.7B model published by others; they were not measured here."""
    return pd.read_csv(PUBLISHED, comment="#")
