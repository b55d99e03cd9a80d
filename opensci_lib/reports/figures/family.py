"""Many checkpoints at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opensci_lib.reports import findings
from opensci_lib.reports.family import label
from opensci_lib.reports.figures.canvas import COLOURS, DIFFERENT, EQUAL, canvas, mark_undrawn
from opensci_lib.runs import ascending, in_order


def family_parity(parity: pd.DataFrame) -> Figure:
    """Draw checkpoints down, releases across, a panel a variant: equal to the checkpoint's own reference, or not.

    `parity` holds the rows of every `parity.csv` behind `model` and `revision` (`family.gather`).
    """
    runs = findings.parity_by_run(parity)
    checkpoints = list(dict.fromkeys(zip(parity["model"], parity["revision"], strict=True)))
    releases, variants = ascending(runs["tf_version"]), in_order(runs["variant"])
    row_height, line, size = (0.25, 1.5, 8) if len(checkpoints) <= 40 else (0.12, 0.5, 5)
    height = 1.6 + row_height * len(checkpoints)
    figure, [panels] = canvas(findings.equal_checkpoints(parity), height, 1, len(variants), sharey=True)
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
    figure, [panels] = canvas(findings.unchanged_scores(scores), 4.2, 1, len(tasks), sharex=True)
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
    mark_undrawn(axes, places, low + high, colour)
