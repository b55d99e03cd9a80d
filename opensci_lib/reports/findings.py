"""What the data say: the numbers that a figure draws, and the sentence above it.

Pure functions of frames and arrays; `figures` draws what they return. Four rules hold for all of them: NaN is told,
never skipped or taken for 0; "equal" is said of bits alone; what is not 0 never prints as 0, nor a part as the whole;
and what was not run is neither equal nor different, but left out of both counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from opensci_lib.reports.compare import Run, describe_stage, first_divergence, layer_of
from opensci_lib.runs import VARIANTS, ascending, in_order, place
from opensci_lib.runs.capture import Capture
from opensci_lib.runs.logits import abs_diff

#: The results of `compat.csv` as a matrix draws them, worst first.
RESULTS = {"fails": 0.0, "unsupported by this release": 1.0, "ok": 2.0}
_VARIANTS = list(VARIANTS)
_CHECKPOINT = ["model", "revision"]


def number(value: float, digits: int = 3) -> str:
    """Write a number with its significant digits, 0.0004 as "0.0004"; below a million without an exponent."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Write a share with three significant digits, or as many as tell a part from the whole."""
    digits = next(digits for digits in range(3, 18) if share >= 1 or number(100 * share, digits) != "100")
    return f"{number(100 * share, digits)} %"


def runs_in_order(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the runs of a frame, each once, as (release, variant): releases ascending, then variants."""
    runs = set(frame[["tf_version", "variant"]].itertuples(index=False, name=None))
    return sorted(runs, key=lambda run: place(*run))


def spans(releases: Iterable[str], among: Iterable[str]) -> str:
    """Write releases as spans of neighbours among others: 5.0, 5.2 and 5.3 of all four are "5.0, 5.2 to 5.3"."""
    order = ascending(among)
    places = [order.index(release) for release in ascending(releases)]
    said = []
    for _, neighbours in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        first, *rest = [order[place] for _, place in neighbours]
        said.append(f"{first} to {rest[-1]}" if rest else first)
    return ", ".join(said)


def alike(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Gather the runs of a variant that agree in `columns`: `variant`, the `releases` in words, and those columns."""
    among = {variant: list(rows["tf_version"]) for variant, rows in frame.groupby("variant")}
    found = frame.groupby(["variant", *columns], sort=False, dropna=False)["tf_version"].agg(list).reset_index()
    pairs = zip(found["tf_version"], found["variant"], strict=True)
    found.insert(1, "releases", [spans(releases, among[variant]) for releases, variant in pairs])
    found = found.drop(columns="tf_version")
    return found.sort_values("variant", key=lambda names: names.map(_VARIANTS.index), kind="stable")


def _all_true(values: pd.Series) -> bool:
    return bool(values.eq(True).all())


def _smallest(values: pd.Series) -> float:
    return values.min(skipna=False)


def _largest(values: pd.Series) -> float:
    return values.max(skipna=False)


# Logits


def parity_by_run(parity: pd.DataFrame) -> pd.DataFrame:
    """Gather the prompts of each run of `parity.csv`, or of the frame that `family.gather` made of several.

    Returns a row a run: (`model`, `revision`,) `variant`, `tf_version`; `equal`, bool, on every prompt;
    `max_abs_diff`, the largest, NaN where one is; and `failed`, bool, where there are no numbers.
    """
    keys = [name for name in (*_CHECKPOINT, "variant", "tf_version") if name in parity]
    return (
        parity.assign(failed=parity.get("positions", default=1) == 0)
        .groupby(keys)
        .agg(
            equal=("bitwise_equal", _all_true),
            max_abs_diff=("max_abs_diff", _largest),
            failed=("failed", "any"),
        )
        .reset_index()
    )


def parity_by_checkpoint(parity: pd.DataFrame) -> pd.DataFrame:
    """Gather the runs of each checkpoint of a family (`family.gather`).

    Returns a row a checkpoint and variant: `model`, `revision`, `variant`; `releases`, their number; `bitwise_equal`,
    on all of them and on every prompt; the largest `max_abs_diff` and the lowest `top1_agreement`, NaN where one is.
    """
    return (
        parity.groupby([*_CHECKPOINT, "variant"], sort=False)
        .agg(
            releases=("tf_version", "nunique"),
            bitwise_equal=("bitwise_equal", _all_true),
            max_abs_diff=("max_abs_diff", _largest),
            top1_agreement=("top1_agreement", _smallest),
        )
        .reset_index()
    )


def parity_cell(equal: bool, max_abs_diff: float, failed: bool = False) -> str:
    """Say of one run whether its logits are the reference's or how far off: "equal", "off by 0.25", "failed"."""
    if failed:
        return "failed"
    return "equal" if equal else f"off by {_difference(equal, max_abs_diff)}"


def equal_releases(parity: pd.DataFrame) -> str:
    """Say on how many releases each variant computes the reference's logits."""
    return f"Releases whose logits are the reference's, bit for bit: {_counts(parity_by_run(parity), 'equal')}"


def parity_verdict(parity: pd.DataFrame) -> str:
    """Say in a line whether the fixed folder computes the reference's logits, and how many of the others do not."""
    equal = parity_by_run(parity).groupby("variant")["equal"].agg(list)
    counts = {variant: (sum(equal[variant]), len(equal[variant])) for variant in _VARIANTS if variant in equal}
    same, count = counts.pop("fixed", (0, 0))
    wrong = [
        f"{variant} differs on {count - same} of {count}" for variant, (same, count) in counts.items() if same < count
    ]
    share = f"all {count}" if same == count else f"{same} of {count}"
    first = f"The fixed folder computes the same logits on {share} releases, bit for bit"
    return f"{first}; {', '.join(wrong)}." if wrong else f"{first}."


def equal_checkpoints(parity: pd.DataFrame) -> str:
    """Say the same of a whole family, over its checkpoints and releases (`family.gather`)."""
    checkpoints, counts = len(parity[_CHECKPOINT].drop_duplicates()), _counts(parity_by_run(parity), "equal")
    return f"{checkpoints} checkpoints; runs with their reference's logits, bit for bit: {counts}"


def _counts(frame: pd.DataFrame, column: str) -> str:
    """Count, for each variant, the rows in which a column of bool is true: "original 3 of 3, fixed 5 of 6"."""
    columns = {variant: frame.loc[frame["variant"] == variant, column] for variant in in_order(frame["variant"])}
    return ", ".join(f"{variant} {values.sum()} of {len(values)}" for variant, values in columns.items())


def largest_logit_difference(positions: pd.DataFrame) -> str:
    """Say each variant's largest logit difference over the rows of `positions.csv` that are given."""
    worst = []
    for variant in in_order(positions["variant"]):
        rows = positions[positions["variant"] == variant]
        worst.append(f"{variant} {_difference(_all_true(rows['bitwise_equal']), _largest(rows['max_abs_diff']))}")
    return f"Largest logit difference: {', '.join(worst)}"


def _difference(equal: bool, largest: float) -> str:
    """Write a difference; one that is 0 though bits differ is that of 0.0 and -0.0."""
    return number(largest) if equal or largest else "the sign of a 0"


# The rotary embedding


def cosine_difference(reference: Capture, candidate: Capture, prompt: int) -> np.ndarray:
    """Return |Δcos| (`logits.abs_diff`), float64, (positions, head_dim)."""
    return abs_diff(*(capture[f"{prompt}.cos"] for capture in (reference, candidate)))


def largest_cosine_difference(differences: dict[tuple[str, str], np.ndarray]) -> str:
    """Say each variant's largest of `cosine_difference`, which are given by (release, variant)."""
    worst = []
    for wanted in in_order(variant for _, variant in differences):
        largest = np.max([values.max() for (_, variant), values in differences.items() if variant == wanted])
        worst.append(f"{wanted} {number(largest)}")
    return f"Cosines of the rotary embedding, largest difference from the reference: {', '.join(worst)}"


def inv_freq_range(inv_freq: np.ndarray) -> str:
    """Say from where to where the rotation speeds run."""
    return f"inv_freq runs from {number(inv_freq.max())} to {number(inv_freq.min())} radians a token"


# Where runs part


def stage_differences(reference: Capture, candidate: Capture, prompt: int) -> pd.DataFrame:
    """Compare the fingerprints of two captures, stage by stage of the same name.

    Returns a row a stage, the reference's in causal order and then any of the candidate's own, and a column a
    position: 1.0 where they differ, 0.0 where they are equal, NaN in stages that one of the two lacks.
    """
    ours, theirs = (
        pd.DataFrame(capture[f"{prompt}.fingerprints"], index=capture.stages) for capture in (reference, candidate)
    )
    both = [stage for stage in ours.index if stage in theirs.index]
    differs = (ours.loc[both] != theirs.loc[both]).astype(float)
    return differs.reindex(ours.index.union(theirs.index, sort=False))


def divergences(reference: Run, runs: list[Run], prompt: int) -> dict[str, pd.DataFrame]:
    """Return where runs leave the reference (`stage_differences`), by the names of those that leave it alike.

    Runs of which no stage differs are left out.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for run in runs:
        differences = stage_differences(reference.capture, run.capture, prompt)
        if differences.eq(1).any(axis=None):
            key = run.variant, differences.to_csv()
            alike.setdefault(key, []).append(run.tf_version)
            found[key] = differences
    among = [run.tf_version for run in runs]
    return {f"{key[0]} on {spans(releases, among)}": found[key] for key, releases in alike.items()}


def by_layer(differences: pd.DataFrame) -> pd.DataFrame:
    """Gather the stages of each layer (`stage_differences`), but for those of the layer where the runs first part.

    The index says them in words. A layer is 1.0 where any of its stages is, and NaN where all of them are.
    """
    parting = next(iter(differences.index[differences.eq(1).any(axis=1)]), "")
    closed = [layer_of(stage) not in (None, layer_of(parting)) for stage in differences.index]
    names = [
        f"layer {layer_of(stage)}" if shut else describe_stage(stage)
        for stage, shut in zip(differences.index, closed, strict=True)
    ]
    return differences.groupby(names, sort=False).max()


def differing_stages(differences: pd.DataFrame) -> str:
    """Say how many of a run's stage outputs differ (`stage_differences`), and how many stages were not compared."""
    compared = differences.dropna()
    finding = f"{int(compared.to_numpy().sum())} of {compared.size} stage outputs differ from the reference"
    missing = len(differences) - len(compared)
    return f"{finding}; {missing} stages are not in both" if missing else finding


def first_differences(reference: Run, runs: list[Run], parity: pd.DataFrame, prompt: int) -> pd.DataFrame:
    """Return where each run first parts from the reference on a prompt.

    Returns, with those that are alike in one row, `variant` and `releases`; `logits equal`, from the row of `parity`;
    `stages compared`, those of the same name; and `first stage` and `position` of the first difference in causal
    order, empty where no stage that was compared differs.
    """
    equal = parity[parity["prompt"] == prompt].set_index(["tf_version", "variant"])["bitwise_equal"]
    rows = []
    for run in runs:
        stage, position = first_divergence(reference.capture, run.capture, prompt) or ("", None)
        rows.append(
            {
                "tf_version": run.tf_version,
                "variant": run.variant,
                "logits equal": bool(equal[run.tf_version, run.variant]),
                "stages compared": len(set(reference.capture.stages) & set(run.capture.stages)),
                "first stage": describe_stage(stage),
                "position": position,
            }
        )
    return alike(pd.DataFrame(rows), ["logits equal", "stages compared", "first stage", "position"])


def verdicts(parity: pd.DataFrame) -> pd.DataFrame:
    """Return `variant`, `releases`, `prompts` and `verdict`: releases with the same in one row."""
    rows = parity.assign(prompts=parity["prompt"].astype(str))
    said = rows.groupby(["variant", "tf_version", "verdict"], sort=False)["prompts"].agg(", ".join).reset_index()
    return alike(said, ["prompts", "verdict"])


def conditions(runs: list[Run]) -> pd.DataFrame:
    """Return how each run was computed: a row a run, with versions, settings, seconds and memory."""
    rows = []
    for run in runs:
        versions, settings, seconds, weights = (
            run.record[name] for name in ("versions", "settings", "seconds", "weights")
        )
        row = {
            "run": f"{run.tf_version} {run.variant}",
            **{name: versions[name] for name in ("torch", "tokenizers", "safetensors", "python")},
            **{name: settings[name] for name in ("dtype", "device", "attn_implementation")},
            "torch threads": run.record["machine"]["torch_threads"],
            "tensors unlike the checkpoint": f"{len(weights['differing'])} of {weights['tensors']}",
            "seconds, import": seconds["import"],
            "seconds, the rest": round(sum(seconds.values()) - seconds["import"], 1),
            "peak memory of the": run.record["machine"]["peak_memory_of"],
            "peak memory (MiB)": round(max(run.record["peak_memory_bytes"].values()) / 2**20),
        }
        row |= {name: version for name, version in versions.items() if name.startswith("vllm")}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


# Features


def feature_codes(compat: pd.DataFrame) -> pd.DataFrame:
    """Return the fixed folder's results (`compat.csv`) as `RESULTS` codes, NaN where a feature was not checked.

    A row a feature, by `group` and `feature` in the order in which they come; a column a release, ascending.
    """
    fixed = compat[compat["variant"] == "fixed"]
    codes = fixed.assign(code=[RESULTS[result] for result in fixed["result"]])
    table = codes.pivot_table("code", ["group", "feature"], "tf_version", aggfunc="min", sort=False)
    return table[ascending(table.columns)]


def failing_features(codes: pd.DataFrame) -> str:
    """Say how many of the checks (`feature_codes`) fail, are unsupported, and were not made."""
    counts = {result: int((codes.to_numpy() == code).sum()) for result, code in RESULTS.items()}
    missing = codes.size - sum(counts.values())
    failed = f"{counts['fails']} checks fail" if counts["fails"] else "nothing fails"
    parts = [failed, f"{counts['unsupported by this release']} unsupported"]
    parts += [f"{missing} not checked"] if missing else []
    finding = ", ".join(parts) if codes.size else "nothing was checked"
    return f"{len(codes)} features on {codes.shape[1]} releases: {finding}"


def compat_verdict(compat: pd.DataFrame) -> str:
    """Say in a line how much of what was checked the fixed folder does."""
    codes = feature_codes(compat).to_numpy()
    checked, fails, unsupported = (~np.isnan(codes)).sum(), (codes == 0).sum(), (codes == 1).sum()
    failed = f"{fails} failed" if fails else "none failed"
    return (
        f"Of {checked} checks of the fixed folder on {compat['tf_version'].nunique()} releases {failed}; "
        f"{unsupported} ask for what the release does not support."
    )


def wanting_features(compat: pd.DataFrame) -> pd.DataFrame:
    """Return what the fixed folder does not do: by feature, result and error of `compat.csv`, on which `releases`."""
    wanting = compat[(compat["variant"] == "fixed") & (compat["result"] != "ok")]
    reasons = wanting.groupby(["group", "feature", "result", "error"], sort=False)["tf_version"]
    return reasons.agg(lambda releases: spans(releases, compat["tf_version"])).reset_index(name="releases")


# Scores


def equal_scores(table: pd.DataFrame) -> str:
    """Say on how many releases each variant scores what the reference scores, on every task that any run has."""
    equal = table.pivot(index=["tf_version", "variant"], columns="task", values="equal").eq(True).all(axis=1)
    counts = _counts(equal.rename("equal").reset_index(), "equal")
    return f"Releases whose scores are the reference's, bit for bit: {counts}"


def score_rows(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return in which row of a picture each run of `evaluation.csv` is: its own, or that of all equal ones."""
    runs = table.groupby(["tf_version", "variant"])["equal"].agg(_all_true)
    equal = {variant: [run[0] for run in runs[runs].index if run[1] == variant] for variant in set(table["variant"])}
    rows = {}
    for release, variant in runs_in_order(table):
        together = equal[variant] if release in equal[variant] else [release]
        rows[release, variant] = (
            f"{variant} {release}" if len(together) == 1 else f"{variant}, {len(together)} releases"
        )
    return rows


def score_spans(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what each checkpoint scored over the releases on which it was evaluated (`family.gather`).

    A row a task, checkpoint and variant: `task`, `metric`, `model`, `revision`, `variant`; `releases`, their number;
    `lowest` and `highest` score, NaN where one is; and `same`, whether every score is the reference's.
    """
    rows = scores.assign(same=scores["score"] == scores["reference"])
    keys = ["task", "metric", *_CHECKPOINT, "variant"]
    return (
        rows.groupby(keys, sort=False)
        .agg(
            releases=("tf_version", "nunique"),
            lowest=("score", _smallest),
            highest=("score", _largest),
            same=("same", "all"),
        )
        .reset_index()
    )


def unchanged_scores(scores: pd.DataFrame) -> str:
    """Say how many scores, a task of a checkpoint each, are the reference's on every release."""
    counts = _counts(score_spans(scores), "same")
    return f"Scores that are the original's on every release evaluated: {counts}"


def moved_likelihoods(moved: dict[str, np.ndarray]) -> str:
    """Say in how many variants no log-likelihood differs; `moved`, by variant, over all of its runs."""
    still = sum(not differs.any() for differs in moved.values())
    return f"Log-likelihoods lie on the diagonal, exactly, in {still} of {len(moved)} variants"


def perplexity(nats: pd.Series) -> float:
    """Return exp of the mean -log p of tokens, which are given in nats; NaN where one is."""
    return float(np.exp(nats.mean(skipna=False)))


def perplexity_by_bin(positions: pd.DataFrame, bin_size: int) -> pd.Series:
    """Return the perplexity of each `bin_size` positions in a row, by the first of them.

    `positions` has the columns `position`, from 0, and `nats`, -log p of the token there.
    """
    bins = positions["nats"].groupby(positions["position"] // bin_size * bin_size)
    return bins.apply(perplexity)


def perplexities(task: str, runs: dict[tuple[str, str], float]) -> str:
    """Say each variant's perplexity on a task, given by (release, variant), from the lowest to the highest."""
    spans = []
    for wanted in in_order(variant for _, variant in runs):
        values = [value for (_, variant), value in runs.items() if variant == wanted]
        spans.append(f"{wanted} {_span(np.min(values), np.max(values))}")
    return f"{task}, perplexity over all: {', '.join(spans)}"


def _span(low: float, high: float) -> str:
    """Write a range with four significant digits, or as many as tell its ends apart."""
    if low < high:
        digits = next(digits for digits in range(4, 18) if number(low, digits) != number(high, digits))
        return f"{number(low, digits)} to {number(high, digits)}"
    return number(low, 4)


# One release


def excerpt(text: str, characters: int = 120) -> str:
    """Return a text, or of a longer one its two ends."""
    half = characters // 2
    return text if len(text) <= characters else f"{text[:half]} … {text[-half:]}"


def completions(runs: list[Run]) -> pd.DataFrame:
    """Return what runs of the same prompts wrote: a row a prompt and run.

    Columns: `prompt` (an `excerpt`), `tf_version`, `variant`, `completion`.
    """
    return pd.DataFrame(
        {
            "prompt": excerpt(prompt),
            "tf_version": run.tf_version,
            "variant": run.variant,
            "completion": run.record["completions"][number],
        }
        for number, prompt in enumerate(runs[0].record["prompts"])
        for run in runs
    )


def of_each(said: dict[str, str]) -> str:
    """Join what is said of each variant; what is said of all alike is said once."""
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "\n".join(f"{variant}: {sentence}" for variant, sentence in said.items())


def lead(best: list[dict[str, Any]]) -> str:
    """Say by how much the likeliest next token leads the second (`top_tokens` in `run.json`)."""
    first, second = best[:2]
    gap = next(first[name] - second[name] for name in ("logit", "logprob") if name in first)  # the same difference
    if gap == 0:
        return f"{first['token']!r} and {second['token']!r} have the same logit"
    return f"{first['token']!r} leads {second['token']!r} by {number(gap)} logits"


def mean_surprisal(nats: np.ndarray, vocabulary: int | None) -> str:
    """Say the mean of -log p over a prompt's tokens beside that of a uniform guess, ln of the vocabulary's size."""
    if not len(nats):
        return "The prompt has one token: there is none to predict"
    spent = f"The model spends {number(nats.mean())} nats a token"
    return spent if vocabulary is None else f"{spent}; a uniform guess spends {number(math.log(vocabulary))}"
