"""The figures of the notebooks. Each takes data and returns a `matplotlib` figure whose title says the finding."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from opensci_lib import findings
from opensci_lib.capture import Capture
from opensci_lib.compare import Run, describe_stage
from opensci_lib.family import label
from opensci_lib.items import likelihoods
from opensci_lib.logits import same_bits
from opensci_lib.releases import ascending
from opensci_lib.variants import in_order

# Okabe and Ito (2008), a palette that colour-blind readers can tell apart.
COLOURS = {"original": "#000000", "minimal": "#D55E00", "fixed": "#0072B2"}
EQUAL, DIFFERENT = "#0072B2", "#D55E00"
_GREY, _LIGHT_GREY = "#999999", "#DDDDDD"
_WIDTH = 9.0  # inches: the width of a report's column


class _Figure(Figure):
    """A figure that notebooks keep with its title as text, beside the picture."""

    def __repr__(self) -> str:
        return self.get_suptitle()


def _figure(
    finding: str, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
    figure = _Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(finding, fontsize=11, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def top_tokens(best: list[dict]) -> Figure:
    """Draw the likeliest next tokens (`top_tokens` in `run.json`) as bars of their logits."""
    figure, [[axes]] = _figure(findings.lead(best), 2.4)
    colours = [EQUAL] + [_GREY] * (len(best) - 1)
    bars = axes.barh(range(len(best)), [entry["logit"] for entry in best], color=colours)
    axes.bar_label(bars, fmt="%.6g", padding=3)
    axes.set_yticks(range(len(best)), [repr(entry["token"]) for entry in best])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("logit of the next token")
    return figure


def surprisal(capture: Capture, prompt: int) -> Figure:
    """Draw -log p(next token) at each position of a captured prompt, in nats."""
    nats, words = capture[f"{prompt}.surprisal"], len(capture[f"{prompt}.next_logits"])
    figure, [[axes]] = _figure(findings.mean_surprisal(nats, words), 2.6)
    axes.plot(np.arange(1, len(nats) + 1), nats, ".", color=EQUAL, markersize=3)
    axes.axhline(np.log(words), color=_GREY, linestyle="--", label="uniform guess")
    if len(nats):
        axes.axhline(nats.mean(), color=DIFFERENT, label="mean")
    axes.set(xlabel="position in the prompt (tokens)", ylabel="surprisal (nats)")
    axes.legend(loc="upper right")
    return figure


def rotary(capture: Capture, prompt: int) -> Figure:
    """Draw the cosines that the layers of one run received, by position and frequency, beside inv_freq."""
    cos, inv_freq = capture[f"{prompt}.cos"].astype(np.float64), capture[f"{prompt}.inv_freq"]
    figure, [[image, curve]] = _figure(findings.inv_freq_range(inv_freq), 2.8, 1, 2, width_ratios=[2, 1])
    drawn = image.imshow(cos[:, : len(inv_freq)].T, aspect="auto", cmap="cividis", vmin=-1, vmax=1, origin="lower")
    figure.colorbar(drawn, ax=image, label="cos")
    image.set(xlabel="position in the prompt (tokens)", ylabel="frequency index")
    curve.plot(inv_freq, "o-", color=EQUAL, markersize=3)
    curve.set(xlabel="frequency index", ylabel="inv_freq (radians a token)")
    if (inv_freq > 0).all():
        curve.set_yscale("log")
    return figure


def parity_matrix(parity: pd.DataFrame) -> Figure:
    """Draw releases across, variants down: bit-for-bit equal to the reference on every prompt, or not."""
    runs = findings.parity_by_run(parity)
    releases, variants = ascending(runs["tf_version"]), in_order(runs["variant"])
    crowded = len(releases) > 12
    turn = 90 if crowded else 0
    height = 0.9 + (0.9 if crowded else 0.5) * len(variants)
    figure, [[axes]] = _figure(findings.equal_releases(parity), height)
    for run in runs.to_dict("records"):
        column, row = releases.index(run["tf_version"]), variants.index(run["variant"])
        colour = EQUAL if run["equal"] else DIFFERENT
        axes.add_patch(Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, color=colour))
        said = findings.parity_cell(run["equal"], run["max_abs_diff"])
        axes.text(column, row, said, ha="center", va="center", color="white", fontsize=8, rotation=turn)
    axes.set_xticks(range(len(releases)), releases, rotation=turn)
    axes.set_yticks(range(len(variants)), variants)
    axes.set(xlim=(-0.5, len(releases) - 0.5), ylim=(len(variants) - 0.5, -0.5))
    axes.set_xlabel("transformers release")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def family_parity(parity: pd.DataFrame) -> Figure:
    """Draw checkpoints down, releases across, a panel a variant: equal to the checkpoint's own reference, or not.

    `parity` holds the rows of every `parity.csv` behind `model` and `revision` (`family.gather`).
    """
    runs = findings.parity_by_run(parity)
    checkpoints = list(dict.fromkeys(zip(parity["model"], parity["revision"], strict=True)))
    releases, variants = ascending(runs["tf_version"]), in_order(runs["variant"])
    row_height, line, size = (0.25, 1.5, 8) if len(checkpoints) <= 40 else (0.12, 0.5, 5)
    height = 1.6 + row_height * len(checkpoints)
    figure, [panels] = _figure(findings.equal_checkpoints(parity), height, 1, len(variants), sharey=True)
    for axes, variant in zip(panels, variants, strict=True):
        cells = np.full((len(checkpoints), len(releases)), np.nan)  # what did not run stays blank
        for run in runs[runs["variant"] == variant].itertuples():
            cells[checkpoints.index((run.model, run.revision)), releases.index(run.tf_version)] = run.equal
        axes.imshow(cells, aspect="auto", cmap=ListedColormap([DIFFERENT, EQUAL]), vmin=0, vmax=1)
        axes.set_xticks(range(len(releases)), releases, rotation=90, fontsize=8)
        axes.set_xticks(np.arange(-0.5, len(releases)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(checkpoints)), minor=True)
        axes.grid(which="minor", color="white", linewidth=line)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("transformers release")
        axes.set_title(variant, fontsize=10)
    panels[0].set_yticks(range(len(checkpoints)), [label(*checkpoint) for checkpoint in checkpoints], fontsize=size)
    panels[0].set_ylabel("checkpoint")
    return figure


def family_scores(scores: pd.DataFrame) -> Figure:
    """Draw each checkpoint's score, from its lowest to its highest over the releases, a panel a task.

    `scores` holds the rows of every `evaluation.csv` behind `model` and `revision` (`family.gather`).
    """
    spans = findings.score_spans(scores)
    checkpoints = list(dict.fromkeys(zip(scores["model"], scores["revision"], strict=True)))
    tasks = list(spans.groupby("task", sort=False))
    figure, [panels] = _figure(findings.unchanged_scores(scores), 4.2, 1, len(tasks), sharex=True)
    variants = in_order(spans["variant"])
    for axes, (task, of_task) in zip(panels, tasks, strict=True):
        for variant in variants:
            ours = of_task[of_task["variant"] == variant]
            for _, rows in ours.groupby("model", sort=False):  # one line through a model's revisions
                places = [checkpoints.index((row.model, row.revision)) for row in rows.itertuples()]
                _draw_spans(axes, places, rows["lowest"].to_numpy(), rows["highest"].to_numpy(), variant)
        axes.set_title(task, fontsize=9)
        axes.set_ylabel(of_task["metric"].iloc[0], fontsize=8)
        axes.set_xticks(range(len(checkpoints)), [label(*checkpoint) for checkpoint in checkpoints], rotation=90)
        axes.tick_params(labelsize=7)
    figure.supxlabel("checkpoint", fontsize=9)
    handles = [Line2D([], [], color=COLOURS[variant], marker="o", label=variant) for variant in variants]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(variants), fontsize=8)
    return figure


def _draw_spans(axes: Axes, places: list[int], low: np.ndarray, high: np.ndarray, variant: str) -> None:
    colour, wide = COLOURS[variant], 5.0 if variant == "original" else 1.5  # the original shows from under the others
    axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.vlines(places, low, high, color=colour, linewidth=wide)
    axes.plot(places, (low + high) / 2, "o-", color=colour, markersize=wide + 2, linewidth=wide)
    _mark_undrawn(axes, places, low + high, colour)


def _mark_undrawn(axes: Axes, places: Any, values: Any, colour: str) -> None:
    """Mark near the upper edge where a value is NaN or infinite: a line would only have a gap there."""
    gone = np.asarray(places)[~np.isfinite(values)]
    axes.plot(gone, np.full(len(gone), 0.96), "x", color=colour, transform=axes.get_xaxis_transform())


def logit_difference(positions: pd.DataFrame, prompt: int) -> Figure:
    """Draw the largest |logit difference| at each position, one line a release and variant: 4.x beside 5.x.

    A cross near the upper edge is a position with NaN or infinity.
    """
    frame = positions[positions["prompt"] == prompt]
    runs = findings.runs_in_order(frame)
    majors = list(dict.fromkeys(release.partition(".")[0] for release, _ in runs))
    figure, [panels] = _figure(findings.largest_logit_difference(frame), 3.4, 1, len(majors), sharey=True)
    values = frame["max_abs_diff"].to_numpy(float)
    smallest = np.min(values, where=values > 0, initial=1e-3)  # whatever is not 0 shows above the line of 0
    largest = np.max(values, where=np.isfinite(values), initial=1e-3)
    for axes, major in zip(panels, majors, strict=True):
        ours = [run for run in runs if run[0].partition(".")[0] == major]
        for number, (release, variant) in enumerate(ours):
            line = frame[(frame["tf_version"] == release) & (frame["variant"] == variant)]
            axes.plot(
                line["position"],
                line["max_abs_diff"],
                color=COLOURS[variant],
                linestyle=["-", "--", ":", "-."][number % 4],
                linewidth=1,
                label=f"{variant} {release}",
            )
            _mark_undrawn(axes, line["position"], line["max_abs_diff"], COLOURS[variant])
        axes.set_title(f"transformers {major}.x", loc="left", fontsize=10)
        axes.set_xlabel("position in the prompt (tokens)")
        axes.set_yscale("symlog", linthresh=smallest)
        axes.legend(fontsize=7, ncols=2, loc="center right")
    panels[0].set_ylim(-0.3 * smallest, 3 * largest)
    panels[0].set_ylabel("largest |Δlogit| (logits)")
    return figure


def rope_difference(reference: Run, runs: list[Run], prompt: int) -> Figure:
    """Draw |Δcos| by position and frequency against the reference: a row a variant, a column a release."""
    differences = {
        (run.tf_version, run.variant): findings.cosine_difference(reference.capture, run.capture, prompt)
        for run in runs
    }
    releases = ascending(release for release, _ in differences)
    variants = in_order(variant for _, variant in differences)
    finding, height = findings.largest_cosine_difference(differences), 1.2 + 1.4 * len(variants)
    figure, axes = _figure(finding, height, len(variants), len(releases), sharex=True, sharey=True)
    for panel in axes.flat:
        panel.set_facecolor(_LIGHT_GREY)  # where a variant does not run on a release
    for (release, variant), difference in differences.items():
        image = axes[variants.index(variant)][releases.index(release)].imshow(
            difference[:, : difference.shape[1] // 2].T,  # the second half of head_dim repeats the first
            aspect="auto",
            cmap=colormaps["cividis"].with_extremes(bad=DIFFERENT),
            vmin=0,
            vmax=2,
            interpolation="nearest",
            origin="lower",
        )
    for panel, release in zip(axes[0], releases, strict=True):
        panel.set_title(release, fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("position (tokens)", fontsize=8)
    for panels, variant in zip(axes, variants, strict=True):
        panels[0].set_ylabel(f"{variant}\nfrequency index", fontsize=8)
    figure.colorbar(image, ax=axes, label="|Δcos|, 0 to 2; orange: NaN")
    return figure


def divergence_map(reference: Run, run: Run, prompt: int) -> Figure:
    """Draw, stage by stage in causal order and position by position, where one run's bits leave the reference's."""
    differences = findings.stage_differences(reference.capture, run.capture, prompt)
    finding = f"{run.variant} on {run.tf_version}: {findings.differing_stages(differences)}"
    figure, [[axes]] = _figure(finding, 1.0 + 0.11 * len(differences))
    axes.imshow(
        differences,
        aspect="auto",
        cmap=ListedColormap([EQUAL, DIFFERENT]),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    ticks = range(0, len(differences), max(1, len(differences) // 40))
    axes.set_yticks(ticks, [describe_stage(differences.index[i]) for i in ticks], fontsize=6)
    axes.set_xlabel("position in the prompt (tokens); blue equal, orange different, blank not in both")
    axes.set_ylabel("stage, in causal order")
    return figure


def compat_matrix(compat: pd.DataFrame) -> Figure:
    """Draw what the fixed folder does: releases across, features by group down (the rows of `compat.csv`)."""
    codes = findings.feature_codes(compat)
    figure, [[axes]] = _figure(findings.failing_features(codes), 1.6 + 0.165 * len(codes))
    axes.imshow(codes, aspect="auto", cmap=ListedColormap([DIFFERENT, _LIGHT_GREY, EQUAL]), vmin=0, vmax=2)
    for row, column in np.argwhere(codes.to_numpy() < 2):
        axes.text(column, row, "x" if codes.iloc[row, column] == 0 else "-", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(codes.shape[1]), codes.columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(codes)), [feature for _, feature in codes.index], fontsize=7)
    groups = [group for group, _ in codes.index]
    starts = [row for row, group in enumerate(groups) if row == 0 or groups[row - 1] != group]
    for start, end in pairwise([*starts, len(groups)]):
        axes.axhline(start - 0.5, color="white", linewidth=3)
        axes.annotate(
            groups[start], (1.01, (start + end - 1) / 2), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(
        "transformers release\nblue: ok; - grey: native decoders cannot either\nx orange: fails; blank: not checked"
    )
    return figure


def score_differences(table: pd.DataFrame) -> Figure:
    """Draw a forest plot: each run's score minus the reference's, with its 95 % interval, one panel a task."""
    tasks = list(table.groupby("task", sort=False))
    runs = findings.runs_in_order(table)
    finding = f"{findings.equal_scores(table)} (diamonds: equal bit for bit)"
    figure, [panels] = _figure(finding, 1.7 + 0.22 * len(runs), 1, len(tasks), sharey=True)
    for axes, (task, rows) in zip(panels, tasks, strict=True):
        for row in rows.to_dict("records"):
            place, colour = runs.index((row["tf_version"], row["variant"])), COLOURS[row["variant"]]
            if row["equal"]:
                axes.plot(0, place, "D", color=colour, markersize=5)
            elif np.isfinite(row["difference"]):
                axes.plot([row["low"], row["high"]], [place, place], "|-", color=colour)
                axes.plot(row["difference"], place, "o", color=colour, markersize=4)
            else:
                said = findings.number(row["difference"])
                axes.text(0, place, said, color=colour, fontsize=8, ha="center", va="center")
        [metric], [count] = rows["metric"].unique(), rows["items"].unique()
        axes.axvline(0, color=_GREY, linewidth=0.8, zorder=0)
        axes.set_title(f"{task}\n({count} {'items' if metric == 'accuracy' else 'tokens'})", fontsize=9)
        axes.set_xlabel(f"difference in {metric}", fontsize=8)
        axes.margins(x=0.15)
    panels[0].set_yticks(range(len(runs)), [f"{release} {variant}" for release, variant in runs], fontsize=8)
    panels[0].invert_yaxis()
    return figure


def likelihood_scatter(runs: dict[tuple[str, str], pd.DataFrame]) -> Figure:
    """Draw log-likelihoods against the reference's, a panel a variant.

    `runs` are the items of each run beside the reference's (`scores.paired`), by (release, variant).
    """
    of_variant = {
        name: likelihoods(pd.concat([items for run, items in runs.items() if run[1] == name]))
        for name in in_order(variant for _, variant in runs)
    }
    moved = {variant: ~same_bits(*both) for variant, both in of_variant.items()}
    figure, [panels] = _figure(findings.moved_likelihoods(moved), 3.6, 1, len(moved), sharex=True, sharey=True)
    for axes, (variant, (ours, reference)) in zip(panels, of_variant.items(), strict=True):
        axes.plot(reference, ours, ".", color=COLOURS[variant], markersize=2, alpha=0.5)
        axes.axline((0, 0), slope=1, color=_GREY, linewidth=0.8, zorder=0)
        axes.set_title(f"{variant}: {moved[variant].sum()} of {len(ours)} differ", fontsize=10)
        axes.set_xlabel("reference (nats)")
    panels[0].set_ylabel("log-likelihood (nats)")
    return figure


def perplexity_by_position(runs: dict[tuple[str, str], pd.DataFrame], task: str, bin_size: int = 16) -> Figure:
    """Draw exp of the mean -log p of tokens of a task by their position in the text, for each run, in bins."""
    tokens = {run: rows[rows["task"] == task] for run, rows in runs.items() if task in set(rows["task"])}
    overall = {run: findings.perplexity(rows["nats"]) for run, rows in tokens.items()}
    figure, [[axes]] = _figure(findings.perplexities(task, overall), 3.4)
    for (_, variant), rows in tokens.items():
        binned = findings.perplexity_by_bin(rows, bin_size)
        wide = {"original": 4.0, "fixed": 1.5, "minimal": 1.0}[variant]  # original and fixed lie on each other
        axes.plot(binned.index, binned, color=COLOURS[variant], linewidth=wide)
        _mark_undrawn(axes, binned.index, binned, COLOURS[variant])
    axes.set(xlabel="position in the text (tokens)", ylabel="perplexity per token", yscale="log")
    variants = in_order(variant for _, variant in tokens)
    axes.legend(handles=[Line2D([], [], color=COLOURS[variant], label=variant) for variant in variants])
    return figure
