"""Read the evaluations of several runs and compare them with the reference, item by item."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.statistics import changed_predictions, compare_items
from opensci_lib.variants import place

#: Scores of the 1.7B model that others published, with their source.
PUBLISHED = Path(__file__).with_name("published.csv")
ACCURACY, NATS = "accuracy", "nats per token"
#: What tells one item from all others of a run.
KEY = ["task", "metric", "doc_id", "text"]
#: What may change numbers besides release and variant, as `eval.json` names it.
SETTINGS = ("dtype", "model_dtype", "attn_implementation", "device", "batch_size", "batch_size_used", "limit")
SETTINGS += ("model", "revision", "commit", "torch", "lm-eval")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` wrote for one run."""

    path: Path
    tf_version: str
    variant: str

    @property
    def name(self) -> str:
        """The run in a word, such as "5.2.0/fixed"."""
        return f"{self.tf_version}/{self.variant}"

    @cached_property
    def results(self) -> dict[str, Any]:
        """What `eval.json` holds."""
        return json.loads((self.path / "eval.json").read_text(encoding="utf-8"))

    @property
    def shots(self) -> dict[str, int]:
        """The number of examples before each item, by task."""
        return self.results["n-shot"]

    @property
    def settings(self) -> dict[str, Any]:
        """How the numbers came about: a value, or None where it was not recorded, for each of `SETTINGS`."""
        run = self.results["run"]
        recorded = {"model_dtype": self.results["config"]["model_dtype"], **run, **run["versions"]}
        return {name: recorded.get(name) for name in SETTINGS}

    @cached_property
    def positions(self) -> pd.DataFrame:
        """The tokens of the perplexity tasks."""
        return pd.read_parquet(self.path / "positions.parquet")

    @cached_property
    def items(self) -> pd.DataFrame:
        """All items that are compared: those with a right answer, and each token of the perplexity tasks.

        Columns: those of `KEY`, `target` (the right answer; for a token, its whole text), `choices` (a tuple),
        `value` (0 or 1, or nats), `prediction` (empty for a token), `loglikelihoods` (nats, one for each choice, or
        the token's).

        Raises:
            OpensciError: when the tables are not of the tasks in `eval.json`, or hold an item twice.

        """
        samples = pd.read_parquet(self.path / "samples.parquet")
        samples["choices"] = samples["choices"].map(tuple)
        texts = samples[["task", "doc_id", "text"]].rename(columns={"text": "target"})
        tokens = self.positions.merge(texts, on=["task", "doc_id"], how="left")
        tokens = tokens.assign(
            metric=NATS,
            text="token " + tokens["position"].astype(str),
            choices=[()] * len(tokens),
            value=tokens["nats"],
            prediction="",
            loglikelihoods=[[-nats] for nats in tokens["nats"]],
        )
        answered = samples[~samples["task"].isin(tokens["task"])].rename(columns={"correct": "value"})
        answered["metric"] = ACCURACY
        columns = [*KEY, "target", "choices", "value", "prediction", "loglikelihoods"]
        items = pd.concat([answered[columns], tokens[columns]], ignore_index=True)
        if items.empty or set(items["task"]) != set(self.shots):
            raise OpensciError(
                f"{self.path} holds an eval.json and tables that are not of the same tasks, or of none: "
                f"evaluate {self.name} again."
            )
        if items.duplicated(KEY).any():
            task, doc_id = items.loc[items.duplicated(KEY), ["task", "doc_id"]].iloc[0]
            raise OpensciError(f"{self.path} holds item {doc_id} of {task} twice: evaluate {self.name} again.")
        return items


def find_evaluations(folder: Path, runs: list[str] | None = None) -> list[Evaluation]:
    """Return the evaluations below `outputs/<model>`: those of `runs` ("<tf_version>/<variant>"), or all.

    Releases ascend; on each stand original, minimal, fixed.

    Raises:
        OpensciError: when one that is named, or any at all, is not there.

    """
    paths = [folder / run for run in runs] if runs is not None else _runs_with(folder, "eval.json")
    missing = [path for path in paths if not (path / "eval.json").exists()]
    if missing or not paths:
        raise OpensciError(f"{(missing or [folder])[0]} has no evaluation: run `snakemake evaluation` first.")
    return [Evaluation(path, path.parent.name, path.name) for path in sorted(set(paths), key=_place)]


def not_evaluated(folder: Path) -> list[str]:
    """Say in a sentence which runs below `outputs/<model>` were computed but not evaluated; none, no sentence."""
    paths = [path for path in _runs_with(folder, "run.json") if not (path / "eval.json").exists()]
    names = [f"{path.parent.name}/{path.name}" for path in sorted(paths, key=_place)]
    return [f"Not evaluated: {', '.join(names)}."] if names else []


def _runs_with(folder: Path, file: str) -> list[Path]:
    return [path.parent for path in folder.glob(f"*/*/{file}")]


def _place(path: Path) -> tuple[tuple[int, ...], int]:
    return place(path.parent.name, path.name)


def paired(reference: Evaluation, run: Evaluation) -> pd.DataFrame:
    """Return the items of a run beside the reference's, in the reference's order.

    Columns: those of `KEY`, `target`, `choices`, and `value`, `prediction` and `loglikelihoods`, each also with the
    suffix `_reference`.

    Raises:
        OpensciError: when the two were not evaluated on the same items of the same tasks, put in the same way.

    """
    for one, other in ((reference, run), (run, reference)):
        if lacking := [task for task in one.shots if task not in other.shots]:
            raise OpensciError(
                f"{other.name} was not evaluated on {lacking[0]}, but {one.name} was: "
                "evaluate both on the same tasks."
            )
    for task, shots in reference.shots.items():
        if run.shots[task] != shots:
            raise OpensciError(
                f"{run.name} was evaluated on {task} with {run.shots[task]} examples before each item, "
                f"{reference.name} with {shots}: evaluate both with the same num_fewshot."
            )
    identity = [*KEY, "target", "choices"]
    both = reference.items.merge(run.items, on=identity, suffixes=("_reference", ""))
    common, right, ours = (frame["task"].value_counts() for frame in (both, reference.items, run.items))
    for task in reference.shots:
        if not common.get(task, 0) == right[task] == ours[task]:
            raise OpensciError(
                f"{run.name} has {ours[task]} items of {task} and {reference.name} has {right[task]}, "
                f"{common.get(task, 0)} of them the same: evaluate both with the same limit and the same task files."
            )
    other = both["loglikelihoods"].map(len) != both["loglikelihoods_reference"].map(len)
    if other.any():
        one = both[other].iloc[0]
        raise OpensciError(
            f"{run.name} and {reference.name} hold different numbers of log-likelihoods for item {one['doc_id']} of "
            f"{one['task']}: evaluate both again."
        )
    return both


def score_table(reference: Evaluation, runs: list[Evaluation]) -> pd.DataFrame:
    """Return the rows of `evaluation.csv`, one for each run and task.

    Columns: `tf_version`, `variant`, `task`, `metric`, the fields of `statistics.Comparison`, and `settings`: in
    words, those that are not the reference's (empty where all are).

    Raises:
        OpensciError: see `paired`.

    """
    rows = []
    for run in runs:
        key = {"tf_version": run.tf_version, "variant": run.variant}
        settings = {"settings": _other_settings(reference, run)}
        for task, items in paired(reference, run).groupby("task", sort=False):
            [metric] = items["metric"].unique()
            rows.append({**key, "task": task, "metric": metric, **asdict(compare_items(items)), **settings})
    # Tasks without predictions have no number of changed ones; those of the others stay whole.
    return pd.DataFrame(rows).astype({"changed": "Int64"})


def _other_settings(reference: Evaluation, run: Evaluation) -> str:
    right, ours = reference.settings, run.settings
    return ", ".join(f"{name} {ours[name]} instead of {right[name]}" for name in right if ours[name] != right[name])


def changed_items(reference: Evaluation, runs: list[Evaluation]) -> pd.DataFrame:
    """Return the items whose prediction is not the reference's.

    Columns: `task`, `doc_id`, `text`, `target`, `prediction_reference`, `prediction`, `tf_version`, `variant`.
    """
    columns = ["task", "doc_id", "text", "target", "prediction_reference", "prediction"]
    frames = []
    for run in runs:
        both = paired(reference, run)
        frames.append(both[changed_predictions(both)][columns].assign(tf_version=run.tf_version, variant=run.variant))
    return pd.concat(frames, ignore_index=True)


def verdict(table: pd.DataFrame) -> list[str]:
    """Say for each variant what the rows of `score_table` show; runs with other settings are named with them."""
    # Read back from a file, empty words are NaN, and tables of earlier versions tell no settings.
    table = table.assign(settings=table.get("settings", "")).astype({"settings": object}).fillna({"settings": ""})
    sentences = []
    for variant, rows in table.groupby("variant", sort=False):
        runs = [of for _, of in rows.groupby("tf_version", sort=False)]
        unequal = [of for of in runs if not of["equal"].all()]
        if unequal:
            found = f"**{variant}** differs on {len(unequal)} of {len(runs)} releases."
        else:
            items, tokens = (runs[0].loc[runs[0]["metric"] == metric, "items"].sum() for metric in (ACCURACY, NATS))
            found = (
                f"**{variant}** scores exactly what the reference scores on {len(runs)} of {len(runs)} releases: "
                f"every log-likelihood of {items} items and {tokens} tokens is equal bit for bit."
            )
        told = [_finding(of) for of in runs if not of["equal"].all() or of["settings"].any()]
        sentences.append(" ".join([found, *told]))
    return sentences


def _finding(rows: pd.DataFrame) -> str:
    """Say of one run, which of its tasks differ and how, and with which other settings it ran."""
    run = rows.iloc[0]
    settings = f" ({run['settings']})" if run["settings"] else ""
    changes = [_change(row) for row in rows.to_dict("records") if not row["equal"]]
    return f"{run['tf_version']}{settings}: {'; '.join(changes) or 'equal'}."


def _change(row: dict[str, Any]) -> str:
    change = f"{row['task']} {row['reference']:.3f} to {row['score']:.3f} {row['metric']}"
    if row["metric"] == NATS:
        return change
    return f"{change} (McNemar p = {row['p_value']:.1g}, {row['changed']:.0f} of {row['items']} predictions changed)"


def published() -> pd.DataFrame:
    """Return scores of the 1.7B model published by others; they were not measured here."""
    return pd.read_csv(PUBLISHED, comment="#")
