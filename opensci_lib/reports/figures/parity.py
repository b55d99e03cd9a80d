"""How far a model folder's runs are from the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from opensci_lib.reports import findings
from opensci_lib.reports.compare import Run, describe_stage
from opensci_lib.reports.figures.canvas import COLOURS, DIFFERENT, EQUAL, LIGHT_GREY, canvas, mark_undrawn
from opensci_lib.runs import ascending, in_order


def parity_matrix(parity: pd.DataFrame) -> Figure:
    """Draw releases across, variants down: bit-for-bit equal to the reference on every prompt, or not."""
    runs = findings.parity_by_run(parity)
    releases, variants = ascending(runs["tf_version"]), in_order(runs["variant"])
    crowded = len(releases) > 12
    turn = 90 if crowded else 0
    height = 0.9 + (0.9 if crowded else 0.5) * len(variants)
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
            axes.plot(
                line["position"],
                line["max_abs_diff"],
                color=COLOURS[variant],
                linestyle=["-", "--", ":", "-."][number % 4],
                linewidth=1,
                label=f"{variant} {release}",
            )
            mark_undrawn(axes, line["position"], line["max_abs_diff"], COLOURS[variant])
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
    figure, axes = canvas(finding, height, len(variants), len(releases), sharex=True, sharey=True)
    for panel in axes.flat:
        panel.set_facecolor(LIGHT_GREY)  # where a variant does not run on a release
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
    figure, [[axes]] = canvas(finding, 1.0 + 0.11 * len(differences))
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
