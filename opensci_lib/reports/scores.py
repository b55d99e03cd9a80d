"""Read the evaluations of several runs and compare them with the reference, item by item."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.reports.findings import number, percent
from opensci_lib.reports.statistics import changed_predictions, compare_items
from opensci_lib.runs import BACKENDS, find

#: Scores of the 1.7B model that others published, with their source.
PUBLISHED = Path(__file__).with_name("published.csv")
ACCURACY, NATS = "accuracy", "nats per token"
#: What a difference of a metric is stated in, and how many of these one is.
_UNITS = {ACCURACY: ("points", 100), NATS: ("nats", 1)}
#: What tells one item from all others of a run.
KEY = ["task", "metric", "doc_id", "text"]
#: What may change numbers besides release and variant, as `eval.json` names it.
SETTINGS = ("dtype", "model_dtype", "attn_implementation", "device", "batch_size", "batch_size_used", "limit")
SETTINGS += ("too_long", "model", "revision", "commit", "torch", "lm-eval")


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
    def error(self) -> str | None:
        """Why there are no scores: the sentence of an evaluation that failed. None where there are."""
        return self.results.get("error")

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


def evaluations(folders: Iterable[Path]) -> list[Evaluation]:
    """Return the evaluations in the folders of runs, without those that failed."""
    found = [Evaluation(folder, *_run(folder)) for folder in folders]
    return [run for run in found if run.error is None]


def find_evaluations(folder: Path, runs: list[str] | None = None) -> list[Evaluation]:
    """Return the evaluations below `outputs/<model>` in order: those of `runs` ("<tf_version>/<variant>"), or all.

    Those that failed are left out; `not_evaluated` tells of them.

    Raises:
        OpensciError: when one that is named, or any at all, is not there.

    """
    if evaluated := evaluations(find(folder, "eval.json", runs)):
        return evaluated
    raise OpensciError(" ".join([f"{folder} has no evaluation: run `snakemake evaluation`.", *not_evaluated(folder)]))


def not_evaluated(folder: Path) -> list[str]:
    """Say in sentences which runs below `outputs/<model>` have no scores, and of those that failed why."""
    evaluations = {run.name: run for run in (Evaluation(path, *_run(path)) for path in find(folder, "eval.json"))}
    computed = ["/".join(_run(path)) for path in find(folder, "run.json")]
    names = [name for name in computed if name not in evaluations]
    failed = [f"The evaluation of {name} failed: {run.error}" for name, run in evaluations.items() if run.error]
    return [*([f"Not evaluated: {', '.join(names)}."] if names else []), *failed]


def too_long(runs: list[Evaluation]) -> list[str]:
    """Say in sentences which tasks hold items longer than the model's context, and what became of them."""
    runs_of: dict[str, int] = {}
    for run in runs:
        record = run.results["run"]
        for task, count in record.get("items_too_long", {}).items():
            became = {"truncate": "lost their beginning", "skip": "were left out"}[record["too_long"]]
            what = f"Items of {task} that are longer than the model's context {became}: {count}"
            runs_of[what] = runs_of.get(what, 0) + 1
    return [f"{what}, in {count} of {len(runs)} runs." for what, count in runs_of.items()]


def _run(path: Path) -> tuple[str, str]:
    return path.parent.name, path.name


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
            if variant in BACKENDS:  # other kernels: how far off they are is what there is to say
                changed, furthest = rows["changed"].sum(), rows["largest_change"].max(skipna=False)
                found += f" Log-likelihoods changed by up to {furthest:.2g} nats, and {changed} predictions."
        else:
            items, tokens = (runs[0].loc[runs[0]["metric"] == metric, "items"].sum() for metric in (ACCURACY, NATS))
            found = (
                f"**{variant}** scores exactly what the reference scores on {len(runs)} of {len(runs)} releases: "
                f"every log-likelihood of {items} items and {tokens} tokens is equal bit for bit."
            )
        other = [(of.iloc[0]["tf_version"], of.iloc[0]["settings"]) for of in runs if of["settings"].any()]
        sentences.append(" ".join([found, *(f"{release} ran with {settings}." for release, settings in other)]))
    return sentences


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Gather the rows of `score_table` that differ: a row a variant and task, over its releases.

    Columns: `variant`, `task`, `releases` (how many differ, of how many), `reference`, `lowest` and `highest` score
    with their unit, and `change`, the one furthest from 0, with its `unit`: points of accuracy, or nats.
    """
    rows = []
    for _, of in table.groupby(["variant", "task"], sort=False):
        differ = of[~of["equal"]]
        if len(differ):
            metric, scores = of["metric"].iloc[0], differ["score"]
            rows.append(
                {
                    **of.iloc[0][["variant", "task"]],
                    "releases": f"{len(differ)} of {len(of)}",
                    "reference": _stated(of["reference"].iloc[0], metric),
                    "lowest": _stated(scores.min(skipna=False), metric),
                    "highest": _stated(scores.max(skipna=False), metric),
                    "change": max(differ["difference"] * _UNITS[metric][1], key=_distance),
                    "unit": _UNITS[metric][0],
                }
            )
    return pd.DataFrame(rows)


def _distance(change: float) -> float:
    return math.inf if math.isnan(change) else abs(change)


def _stated(score: float, metric: str) -> str:
    return percent(score) if metric == ACCURACY else f"{number(score, 4)} nats"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `score_table` that differ, as a reader wants them: with units and intervals."""
    rows = table[~table["equal"]]
    scale = rows["metric"].map(lambda metric: _UNITS[metric][1])
    shown = pd.DataFrame(
        {
            **{name: rows[name] for name in ("tf_version", "variant", "task")},
            "score": [_stated(*pair) for pair in zip(rows["score"], rows["metric"], strict=True)],
            "change": rows["difference"] * scale,
            "low": rows["low"] * scale,
            "high": rows["high"] * scale,
            **{name: rows[name] for name in ("agreement", "p_value", "largest_change", "settings")},
        }
    )
    return shown if rows["settings"].any() else shown.drop(columns="settings")


def stated(runs: list[Evaluation]) -> pd.DataFrame:
    """Return the scores as the harness states them: a row a `task` and `metric`, a column a run."""
    scores = {
        run.name: {
            (task, metric.removesuffix(",none")): score
            for task, said in run.results["results"].items()
            for metric, score in said.items()
            if isinstance(score, float)
        }
        for run in runs
    }
    return pd.DataFrame(scores).rename_axis(["task", "metric"]).reset_index()


def first_items(runs: list[Evaluation], count: int = 2) -> pd.DataFrame:
    """Return the first items of each task as they were put, with the end of their text: a row an item and run."""
    samples = [pd.read_parquet(run.path / "samples.parquet").assign(run=run.name) for run in runs]
    first = pd.concat([of.groupby("task", sort=False).head(count) for of in samples])
    first = first.assign(text="… " + first["text"].str[-80:])
    first = first.set_index(["task", "doc_id", "run"]).sort_index(level=["task", "doc_id"], sort_remaining=False)
    return first.reset_index()


def conditions(runs: list[Evaluation]) -> pd.DataFrame:
    """Return how each evaluation came about: a row a run, with settings and versions."""
    return pd.DataFrame([{"run": run.name, **run.settings, **run.results["run"]["versions"]} for run in runs])


def published() -> pd.DataFrame:
    """Return scores of the 1.7B model published by others; they were not measured here."""
    return pd.read_csv(PUBLISHED, comment="#")
