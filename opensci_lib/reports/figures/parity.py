"""How far a model folder's runs are from the reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from opensci_lib.reports import findings
from opensci_lib.reports.compare import Run
from opensci_lib.reports.figures.canvas import COLOURS, DIFFERENT, EQUAL, canvas, mark_undrawn, say_equal
from opensci_lib.runs import ascending, in_order
from opensci_lib.runs.logits import same_bits


def parity_matrix(parity: pd.DataFrame) -> Figure:
    """Draw releases across, variants down: bit-for-bit equal to the reference on every prompt, or not."""
    runs = findings.parity_by_run(parity)
    releases, variants = ascending(runs["tf_version"]), in_order(runs["variant"])
    crowded = len(releases) > 12
    turn = 90 if crowded else 0
    height = 0.9 + (1.15 if crowded else 0.5) * len(variants)
    figure, [[axes]] = canvas(findings.equal_releases(parity), height)
    for run in runs.to_dict("records"):
        column, row = releases.index(run["tf_version"]), variants.index(run["variant"])
        colour = EQUAL if run["equal"] else DIFFERENT
        axes.add_patch(Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, color=colour))
        said = findings.parity_cell(run["equal"], run["max_abs_diff"], run["failed"])
        axes.text(column, row, said, ha="center", va="center", color="white", fontsize=8, rotation=turn)
    axes.set_xticks(range(len(releases)), releases, rotation=turn)
    axes.set_yticks(range(len(variants)), variants)
    axes.set(xlim=(-0.5, len(releases) - 0.5), ylim=(len(variants) - 0.5, -0.5))
    axes.set_xlabel("transformers release")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def logit_difference(positions: pd.DataFrame, prompt: int) -> Figure:
    """Draw the largest |logit difference| at each position, one line a release and variant: 4.x beside 5.x.

    A cross near the upper edge is a position with NaN or infinity.
    """
    frame = positions[positions["prompt"] == prompt]
    runs = findings.runs_in_order(frame)
    majors = list(dict.fromkeys(release.partition(".")[0] for release, _ in runs))
    figure, [panels] = canvas(findings.largest_logit_difference(frame), 3.4, 1, len(majors), sharey=True)
    values = frame["max_abs_diff"].to_numpy(float)
    smallest = np.min(values, where=values > 0, initial=1e-3)  # whatever is not 0 shows above the line of 0
    largest = np.max(values, where=np.isfinite(values), initial=1e-3)
    for axes, major in zip(panels, majors, strict=True):
        ours = [run for run in runs if run[0].partition(".")[0] == major]
        for number, (release, variant) in enumerate(ours):
            line = frame[(frame["tf_version"] == release) & (frame["variant"] == variant)]
            style = ["-", "--", ":", "-."][number % 4]
            axes.plot(line["position"], line["max_abs_diff"], color=COLOURS[variant], linestyle=style, linewidth=1)
            mark_undrawn(axes, line["position"], line["max_abs_diff"], COLOURS[variant])
        axes.set_title(f"transformers {major}.x", loc="left", fontsize=10)
        axes.set_xlabel("position in the prompt (tokens)")
        axes.set_yscale("symlog", linthresh=smallest)
        axes.yaxis.set_major_formatter(lambda value, _: findings.number(value) if value else "0, equal")
        counts = Counter(variant for _, variant in ours)
        names = {variant: f"{variant}, {count} release{'s' * (count > 1)}" for variant, count in counts.items()}
        handles = [Line2D([], [], color=COLOURS[variant], label=name) for variant, name in names.items()]
        axes.legend(handles=handles, fontsize=8, loc="center right")
        if frame.set_index(["tf_version", "variant"]).loc[ours, "bitwise_equal"].all():
            say_equal(axes)
    panels[0].set_ylim(-0.3 * smallest, 3 * largest)
    panels[0].set_ylabel("largest |Δlogit| (logits)")
    return figure


def rope_difference(reference: Run, runs: list[Run], prompt: int) -> Figure:
    """Draw |Δcos| by position and frequency against the reference: a panel a run whose cosines are not its bits."""
    differences = {
        (run.tf_version, run.variant): findings.cosine_difference(reference.capture, run.capture, prompt)
        for run in runs
    }
    unequal = [
        run for run in runs if not same_bits(*(each.capture[f"{prompt}.cos"] for each in (reference, run))).all()
    ]
    columns = min(6, max(1, len(unequal)))
    rows = max(1, -(-len(unequal) // columns))
    finding, height = findings.largest_cosine_difference(differences), 1.0 + 1.5 * rows
    figure, axes = canvas(finding, height if unequal else 1.0, rows, columns, sharex=True, sharey=True)
    for panel in axes.flat[len(unequal) :]:
        panel.set_axis_off()
    if not unequal:
        say_equal(axes[0, 0])
        return figure
    for panel, run in zip(axes.flat, unequal, strict=False):
        difference = differences[run.tf_version, run.variant]
        image = panel.imshow(
            difference[:, : difference.shape[1] // 2].T,  # the second half of head_dim repeats the first
            aspect="auto",
            cmap=colormaps["cividis"].with_extremes(bad=DIFFERENT),
            vmin=0,
            vmax=2,
            interpolation="nearest",
            origin="lower",
        )
        panel.set_title(f"{run.variant} {run.tf_version}", fontsize=9)
    figure.supxlabel("position in the prompt (tokens)", fontsize=9)
    figure.supylabel("frequency index", fontsize=9)
    figure.colorbar(image, ax=axes, label="|Δcos|; orange: NaN")
    return figure


def divergence_map(runs: str, differences: pd.DataFrame) -> Figure:
    """Draw where bits leave the reference's: stages down in causal order, positions across (`findings.divergences`).

    A layer is a row, but for the one in which the runs first part: that one is drawn stage by stage.
    """
    finding = f"{runs}: {findings.differing_stages(differences)}"
    rows = findings.by_layer(differences)
    figure, [[axes]] = canvas(finding, 1.0 + 0.19 * len(rows))
    axes.imshow(
        rows,
        aspect="auto",
        cmap=ListedColormap([EQUAL, DIFFERENT]),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set_yticks(range(len(rows)), rows.index, fontsize=8)
    axes.set_xlabel("position in the prompt (tokens); blue equal, orange different, blank not in both")
    return figure
