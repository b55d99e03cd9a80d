"""How far another engine's answers are from the reference's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from opensci_lib.reports.answers import NATIVE, OURS
from opensci_lib.reports.figures.canvas import COLOURS, GREY, canvas, mark_undrawn
from opensci_lib.reports.findings import number


def logprob_changes(rows: pd.DataFrame, prompt: int) -> Figure:
    """Draw by how much a prompt's tokens changed their log-probability (`answers.positions`): a panel a run.

    The native model's changes stand beside ours. A cross near the upper edge is NaN or infinite.
    """
    frame = rows[rows["prompt"] == prompt].groupby(["tf_version", "variant", "of"], sort=False).head(-1)
    largest = {of: number(part["change"].max(skipna=False), 2) for of, part in frame.groupby("of", sort=False)}
    said = ", ".join(f"{of} {change} nats" for of, change in largest.items())
    runs = list(dict.fromkeys(zip(frame["tf_version"], frame["variant"], strict=True)))
    figure, [panels] = canvas(f"Largest change of a log-probability: {said}", 2.8, 1, len(runs), sharey=True)
    values = frame["change"].to_numpy(float)
    smallest = np.min(values, where=values > 0, initial=1e-3)  # whatever is not 0 shows above the line of 0
    for axes, (release, variant) in zip(panels, runs, strict=True):
        ours = frame[(frame["tf_version"] == release) & (frame["variant"] == variant)]
        for of, colour, mark in ((NATIVE, GREY, "s"), (OURS, COLOURS[variant], ".")):
            part = ours[ours["of"] == of]
            if len(part):
                axes.plot(part["position"], part["change"], mark, color=colour, markersize=3.5, label=of)
                mark_undrawn(axes, part["position"], part["change"], colour)
        axes.set_title(f"{variant}, transformers {release}", loc="left", fontsize=10)
        axes.set_xlabel("position in the prompt (tokens)")
        axes.set_yscale("symlog", linthresh=smallest)
        axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    panels[0].set_ylabel("|Δ log-probability| (nats)")
    return figure
