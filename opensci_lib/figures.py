"""The figures of the notebooks. Each takes data and returns a `matplotlib` figure whose title says the finding."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opensci_lib.capture import Capture
from opensci_lib.compare import Run, describe_stage
from opensci_lib.family import label

# Okabe and Ito (2008), a palette that colour-blind readers can tell apart.
COLOURS = {"original": "#000000", "minimal": "#D55E00", "fixed": "#0072B2"}
EQUAL, DIFFERENT = "#0072B2", "#D55E00"
_WIDTH = 9.0  # inches: the width of a report's column


def _figure(height: float, rows: int = 1, columns: int = 1, **options: object) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)  # ty: ignore[no-matching-overload]


def top_tokens(best: list[dict]) -> Figure:
    """Draw the likeliest next tokens (`top_tokens` in `run.json`) as bars of their logits."""
    figure, [[axes]] = _figure(2.4)
    names = [repr(entry["token"]) for entry in best]
    bars = axes.barh(names, [entry["logit"] for entry in best], color=[EQUAL] + ["#999999"] * (len(best) - 1))
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("logit of the next token")
    gap = best[0]["logit"] - best[1]["logit"]
    axes.set_title(f"{names[0]} leads {names[1]} by {gap:.2f} logits", loc="left")
    return figure


def surprisal(capture: Capture, prompt: int) -> Figure:
    """Draw -log p(next token) at each position of a captured prompt, in nats."""
    nats = capture[f"{prompt}.surprisal"]
    figure, [[axes]] = _figure(2.6)
    axes.plot(np.arange(1, len(nats) + 1), nats, ".", color=EQUAL, markersize=3)
    uniform = np.log(len(capture[f"{prompt}.next_logits"]))
    axes.axhline(uniform, color="#999999", linestyle="--", label=f"uniform guess, {uniform:.2f} nats")
    axes.axhline(nats.mean(), color=DIFFERENT, label=f"mean, {nats.mean():.2f} nats")
    axes.set(xlabel="position in the prompt (tokens)", ylabel="surprisal (nats)")
    axes.legend(loc="upper right")
    axes.set_title(
        f"The model spends {nats.mean():.2f} nats a token; a uniform guess spends {uniform:.2f}", loc="left"
    )
    return figure


def rotary(capture: Capture, prompt: int) -> Figure:
    """Draw the cosines that the layers of one run received, by position and frequency, beside inv_freq."""
    cos, inv_freq = capture[f"{prompt}.cos"].astype(np.float64), capture[f"{prompt}.inv_freq"]
    figure, [[image, curve]] = _figure(2.8, 1, 2, width_ratios=[2, 1])
    drawn = image.imshow(cos[:, : len(inv_freq)].T, aspect="auto", cmap="cividis", vmin=-1, vmax=1, origin="lower")
    figure.colorbar(drawn, ax=image, label="cos")
    image.set(xlabel="position in the prompt (tokens)", ylabel="frequency index")
    curve.plot(inv_freq, "o-", color=EQUAL, markersize=3)
    curve.set(xlabel="frequency index", ylabel="inv_freq (radians a token)")
    if (inv_freq > 0).all():
        curve.set_yscale("log")
    image.set_title(f"inv_freq runs from {inv_freq.max():.3g} to {inv_freq.min():.3g} radians a token", loc="left")
    return figure


def parity_matrix(parity: pd.DataFrame) -> Figure:
    """Draw releases across, variants down: bit-for-bit equal to the reference on every prompt, or not."""
    grouped = parity.groupby(["variant", "tf_version"], sort=False)
    equal = grouped["bitwise_equal"].all().unstack()
    worst = grouped["max_abs_diff"].max().unstack()
    releases = list(dict.fromkeys(parity["tf_version"]))
    variants = [variant for variant in COLOURS if variant in equal.index]
    crowded = len(releases) > 12
    figure, [[axes]] = _figure(0.9 + (0.9 if crowded else 0.5) * len(variants))
    for row, variant in enumerate(variants):
        for column, release in enumerate(releases):
            same = equal[release].get(variant)
            if pd.isna(same):
                continue
            axes.add_patch(_cell(column, row, EQUAL if same else DIFFERENT))
            text = "equal" if same else f"off by {worst[release][variant]:.3g}"
            turn = 90 if crowded else 0
            axes.text(column, row, text, ha="center", va="center", color="white", fontsize=8, rotation=turn)
    axes.set_xticks(range(len(releases)), releases, rotation=90 if crowded else 0)
    axes.set_yticks(range(len(variants)), variants)
    axes.set(xlim=(-0.5, len(releases) - 0.5), ylim=(len(variants) - 0.5, -0.5))
    axes.set_xlabel("transformers release")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(_parity_finding(parity), loc="left")
    return figure


def _cell(column: float, row: float, colour: str) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, color=colour)


def family_parity(parity: pd.DataFrame) -> Figure:
    """Draw checkpoints down, releases across, a panel a variant: equal to the checkpoint's own reference, or not.

    `parity` holds the rows of every `parity.csv` behind `model` and `revision` (`family.gather`).
    """
    runs = (
        parity.groupby(["model", "revision", "variant", "tf_version"], sort=False)["bitwise_equal"]
        .all()
        .reset_index()
    )
    checkpoints = list(dict.fromkeys(zip(parity["model"], parity["revision"], strict=True)))
    releases = list(dict.fromkeys(parity["tf_version"]))
    variants = [variant for variant in COLOURS if variant in set(parity["variant"])]
    row_height = 0.25 if len(checkpoints) <= 40 else 0.12
    figure, [panels] = _figure(1.6 + row_height * len(checkpoints), 1, len(variants), sharey=True)
    parts = []
    for axes, variant in zip(panels, variants, strict=True):
        cells = np.full((len(checkpoints), len(releases)), np.nan)  # what did not run stays blank
        for run in runs[runs["variant"] == variant].itertuples():
            cells[checkpoints.index((run.model, run.revision)), releases.index(run.tf_version)] = run.bitwise_equal
        axes.imshow(cells, aspect="auto", cmap=ListedColormap([DIFFERENT, EQUAL]), vmin=0, vmax=1)
        axes.set_xticks(range(len(releases)), releases, rotation=90, fontsize=8)
        axes.set_xticks(np.arange(-0.5, len(releases)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(checkpoints)), minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5 if len(checkpoints) <= 40 else 0.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("transformers release")
        axes.set_title(variant, fontsize=10)
        parts.append(f"{variant} {int(np.nansum(cells))} of {int(np.isfinite(cells).sum())}")
    names = [label(*checkpoint) for checkpoint in checkpoints]
    panels[0].set_yticks(range(len(names)), names, fontsize=8 if len(names) <= 40 else 5)
    panels[0].set_ylabel("checkpoint")
    figure.suptitle(
        f"{len(checkpoints)} checkpoints; runs equal to their reference, bit for bit: {', '.join(parts)}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    return figure


def family_scores(scores: pd.DataFrame) -> Figure:
    """Draw each checkpoint's score, from its lowest to its highest over the releases, a panel a task.

    `scores` holds the rows of every `evaluation.csv` behind `model` and `revision` (`family.gather`).
    """
    checkpoints = list(dict.fromkeys(zip(scores["model"], scores["revision"], strict=True)))
    tasks = list(scores.groupby("task", sort=False))
    figure, [panels] = _figure(4.2, 1, len(tasks), sharex=True)
    for axes, (task, rows) in zip(panels, tasks, strict=True):
        for variant, wide in {"original": 5.0, "minimal": 1.5, "fixed": 1.5}.items():
            ours = rows[rows["variant"] == variant].groupby(["model", "revision"], sort=False)["score"]
            spans = ours.agg(["min", "max"])
            for model in dict.fromkeys(model for model, _ in spans.index):  # one line through a model's revisions
                low, high = spans.loc[[model], "min"].to_numpy(), spans.loc[[model], "max"].to_numpy()
                places = [checkpoints.index(checkpoint) for checkpoint in spans.loc[[model]].index]
                axes.fill_between(places, low, high, color=COLOURS[variant], alpha=0.25, linewidth=0)
                axes.vlines(places, low, high, color=COLOURS[variant], linewidth=wide)
                axes.plot(places, (low + high) / 2, "o-", color=COLOURS[variant], markersize=wide + 2, linewidth=wide)
        axes.set_title(task, fontsize=9)
        axes.set_ylabel(rows["metric"].iloc[0], fontsize=8)
        axes.set_xticks(range(len(checkpoints)), [label(*checkpoint) for checkpoint in checkpoints], rotation=90)
        axes.tick_params(labelsize=7)
    figure.supxlabel("checkpoint", fontsize=9)
    drawn = [variant for variant in COLOURS if variant in set(scores["variant"])]
    handles = [Line2D([], [], color=COLOURS[variant], marker="o", label=variant) for variant in drawn]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(drawn), fontsize=8)
    right = scores[scores["variant"] == "original"].groupby(["task", "model", "revision"])["score"].first()
    parts = []
    for variant in drawn:
        found = scores[scores["variant"] == variant].groupby(["task", "model", "revision"])["score"]
        same = (found.min() == right) & (found.max() == right)
        parts.append(f"{variant} {int(same.sum())} of {len(same)}")
    title = f"Scores that are the original's on every release: {', '.join(parts)}"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _parity_finding(parity: pd.DataFrame) -> str:
    parts = []
    for variant in COLOURS:
        rows = parity[parity["variant"] == variant]
        if len(rows):
            equal = rows.groupby("tf_version")["bitwise_equal"].all()
            parts.append(f"{variant} {int(equal.sum())} of {len(equal)}")
    return f"Releases equal to the reference, bit for bit: {', '.join(parts)}"


def logit_difference(positions: pd.DataFrame, prompt: int) -> Figure:
    """Draw the largest |logit difference| at each position: 4.x beside 5.x, one line a release and variant."""
    frame = positions[positions["prompt"] == prompt]
    figure, axes = _figure(3.4, 1, 2, sharey=True)
    for panel, major in zip(axes[0], ("4", "5"), strict=True):
        ours = frame[frame["tf_version"].str.startswith(major + ".")]
        for number, ((variant, release), line) in enumerate(ours.groupby(["variant", "tf_version"], sort=False)):
            panel.plot(
                line["position"],
                line["max_abs_diff"],
                color=COLOURS[variant],
                linestyle=["-", "--", ":", "-."][number % 4],
                linewidth=1,
                label=f"{variant} {release}",
            )
        panel.set_title(f"transformers {major}.x", loc="left", fontsize=10)
        panel.set_xlabel("position in the prompt (tokens)")
        panel.set_yscale("symlog", linthresh=1e-3)
        panel.legend(fontsize=7, ncols=2, loc="center right")
    axes[0][0].set_ylim(-3e-4, max(1e-3, 3 * frame["max_abs_diff"].max()))
    axes[0][0].set_ylabel("largest |Δlogit| (logits)")
    worst = frame.groupby("variant", sort=False)["max_abs_diff"].max()
    figure.suptitle(
        "Largest logit difference: " + ", ".join(f"{name} {value:.3g}" for name, value in worst.items()),
        x=0.01,
        ha="left",
    )
    return figure


def rope_difference(reference: Run, runs: list[Run], prompt: int) -> Figure:
    """Draw |Δcos| by position and frequency against the reference: a row a variant, a column a release."""
    releases = list(dict.fromkeys(run.tf_version for run in runs))
    variants = [variant for variant in COLOURS if any(run.variant == variant for run in runs)]
    figure, axes = _figure(1.2 + 1.4 * len(variants), len(variants), len(releases), sharex=True, sharey=True)
    right = reference.capture[f"{prompt}.cos"].astype(np.float64)
    half = right.shape[1] // 2  # the second half of head_dim repeats the first
    worst = dict.fromkeys(variants, 0.0)
    for panel in axes.flat:
        panel.set_facecolor("#DDDDDD")  # where a variant does not run on a release
    for run in runs:
        panel: Axes = axes[variants.index(run.variant)][releases.index(run.tf_version)]
        difference = np.abs(run.capture[f"{prompt}.cos"].astype(np.float64) - right)[:, :half]
        worst[run.variant] = max(worst[run.variant], float(np.nan_to_num(difference, nan=np.inf).max()))
        image = panel.imshow(
            difference.T, aspect="auto", cmap="cividis", vmin=0, vmax=2, interpolation="nearest", origin="lower"
        )
    for panel, release in zip(axes[0], releases, strict=True):
        panel.set_title(release, fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("position (tokens)", fontsize=8)
    for panels, variant in zip(axes, variants, strict=True):
        panels[0].set_ylabel(f"{variant}\nfrequency index", fontsize=8)
    figure.colorbar(image, ax=axes, label="|Δcos|, 0 to 2")
    findings = ", ".join(f"{variant} {value:.3g}" for variant, value in worst.items())
    figure.suptitle(f"Rotary embedding, largest difference from the reference: {findings}", x=0.01, ha="left")
    return figure


def divergence_map(reference: Run, run: Run, prompt: int) -> Figure:
    """Draw, stage by stage in causal order and position by position, where one run's bits leave the reference's."""
    ours, theirs = (r.capture[f"{prompt}.fingerprints"] for r in (reference, run))
    differs = ours != theirs
    figure, [[axes]] = _figure(1.0 + 0.11 * len(differs))
    axes.imshow(
        differs,
        aspect="auto",
        cmap=ListedColormap([EQUAL, DIFFERENT]),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    step = max(1, len(differs) // 40)
    ticks = range(0, len(differs), step)
    axes.set_yticks(ticks, [describe_stage(reference.capture.stages[i]) for i in ticks], fontsize=6)
    axes.set_xlabel("position in the prompt (tokens)")
    axes.set_ylabel("stage, in causal order")
    share = differs.mean()
    axes.set_title(
        f"{run.variant} on {run.tf_version}: {share:.0%} of stage outputs differ from the reference"
        " (blue equal, orange different)",
        loc="left",
        fontsize=10,
    )
    return figure


def compat_matrix(compat: pd.DataFrame) -> Figure:
    """Draw what the fixed folder does: releases across, features by group down (the rows of `compat.csv`)."""
    fixed = compat[compat["variant"] == "fixed"]
    table = fixed.pivot_table(
        index=["group", "feature"], columns="tf_version", values="result", aggfunc="first", sort=False
    )
    # 0 fails, 1 unsupported by the release, 2 ok; what was not run stays blank
    codes = table.replace({"fails": 0.0, "unsupported by this release": 1.0, "ok": 2.0}).astype(float)
    figure, [[axes]] = _figure(1.6 + 0.165 * len(codes))
    axes.imshow(codes, aspect="auto", cmap=ListedColormap([DIFFERENT, "#DDDDDD", EQUAL]), vmin=0, vmax=2)
    for row, column in np.argwhere(codes.to_numpy() < 2):
        axes.text(column, row, "x" if codes.iloc[row, column] == 0 else "-", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(codes.shape[1]), codes.columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(codes)), [feature for _, feature in codes.index], fontsize=7)
    groups = [group for group, _ in codes.index]
    starts = [row for row, group in enumerate(groups) if row == 0 or groups[row - 1] != group]
    for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
        axes.axhline(start - 0.5, color="white", linewidth=3)
        axes.annotate(
            groups[start], (1.01, (start + end - 1) / 2), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("transformers release\nblue: ok; - grey: native decoders cannot either; x orange: fails")
    failed, unsupported = int((codes == 0).sum(axis=None)), int((codes == 1).sum(axis=None))
    verdict = f"{failed} checks fail" if failed else "nothing fails"
    axes.set_title(
        f"{len(codes)} features on {codes.shape[1]} releases: {verdict}, {unsupported} unsupported",
        loc="left",
        fontsize=11,
    )
    return figure


def score_differences(table: pd.DataFrame) -> Figure:
    """Draw a forest plot: each run's score minus the reference's, with its 95 % interval, one panel a task."""
    tasks = list(table.groupby("task", sort=False))
    runs = list(dict.fromkeys(zip(table["tf_version"], table["variant"], strict=True)))
    figure, [panels] = _figure(1.7 + 0.22 * len(runs), 1, len(tasks), sharey=True)
    for axes, (task, rows) in zip(panels, tasks, strict=True):
        for row in rows.to_dict("records"):
            place, colour = runs.index((row["tf_version"], row["variant"])), COLOURS[row["variant"]]
            if row["equal"]:
                axes.plot(0, place, "D", color=colour, markersize=5)
            else:
                error = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
                axes.errorbar(row["difference"], place, xerr=error, fmt="o", color=colour, capsize=3, markersize=4)
        [metric], [count] = rows["metric"].unique(), rows["items"].unique()
        axes.axvline(0, color="#999999", linewidth=0.8, zorder=0)
        axes.set_title(f"{task}\n({count} {'items' if metric == 'accuracy' else 'tokens'})", fontsize=9)
        axes.set_xlabel(f"difference in {metric}", fontsize=8)
        axes.margins(x=0.15)
    panels[0].set_yticks(range(len(runs)), [f"{release} {variant}" for release, variant in runs], fontsize=8)
    panels[0].invert_yaxis()
    equal = sum(rows["equal"].all() for _, rows in table.groupby(["tf_version", "variant"]))
    figure.suptitle(
        f"{equal} of {len(runs)} runs score exactly what the reference scores (diamonds: equal bit for bit)",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    return figure


def likelihood_scatter(reference: pd.DataFrame, runs: dict[tuple[str, str], pd.DataFrame]) -> Figure:
    """Draw log-likelihoods of the runs, by (release, variant), against the reference's, a panel a variant."""
    variants = list(dict.fromkeys(variant for _, variant in runs))
    figure, [panels] = _figure(3.6, 1, len(variants), sharex=True, sharey=True)
    x = np.concatenate(reference["loglikelihoods"].map(np.asarray).to_list())
    off = 0
    for axes, variant in zip(panels, variants, strict=True):
        of = {release: rows for (release, its), rows in runs.items() if its == variant}
        changed = total = 0
        for rows in of.values():
            y = np.concatenate(rows["loglikelihoods"].map(np.asarray).to_list())
            axes.plot(x, y, ".", color=COLOURS[variant], markersize=2, alpha=0.5)
            changed, total = changed + int((x != y).sum()), total + len(y)
        axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8, zorder=0)
        axes.set_title(f"{variant}: {changed} of {total} differ", fontsize=10)
        axes.set_xlabel("reference (nats)")
        off += changed > 0
    panels[0].set_ylabel("log-likelihood (nats)")
    figure.suptitle(
        f"Log-likelihoods lie on the diagonal, exactly, in {len(variants) - off} of {len(variants)} variants",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    return figure


def perplexity_by_position(runs: dict[tuple[str, str], pd.DataFrame], task: str, bin_size: int = 16) -> Figure:
    """Draw exp of the mean -log p of tokens of a task by their position in the text, for each run, in bins."""
    figure, [[axes]] = _figure(3.4)
    overall: dict[str, list[float]] = {}
    for (_, variant), tokens in runs.items():
        positions = tokens[tokens["task"] == task]
        overall.setdefault(variant, []).append(float(np.exp(positions["nats"].mean())))
        binned = np.exp(positions.groupby(positions["position"] // bin_size)["nats"].mean())
        label = variant if len(overall[variant]) == 1 else None
        wide = {"original": 4.0, "fixed": 1.5, "minimal": 1.0}[variant]  # original and fixed lie on each other
        axes.plot(binned.index * bin_size, binned, color=COLOURS[variant], linewidth=wide, label=label)
    axes.set(xlabel="position in the text (tokens)", ylabel="perplexity per token", yscale="log")
    axes.legend()
    spans = [
        f"{variant} {min(values):.4g}" + (f" to {max(values):.4g}" if min(values) != max(values) else "")
        for variant, values in overall.items()
    ]
    axes.set_title(f"{task}, perplexity over all: {', '.join(spans)}", loc="left", fontsize=11)
    return figure
