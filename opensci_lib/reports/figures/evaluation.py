"""What runs score, beside the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opensci_lib.evaluation.items import likelihoods
from opensci_lib.reports import findings
from opensci_lib.reports.figures.canvas import COLOURS, GREY, canvas, mark_undrawn
from opensci_lib.runs import in_order
from opensci_lib.runs.logits import same_bits


def score_differences(table: pd.DataFrame) -> Figure:
    """Draw a forest plot: each run's score minus the reference's, with its 95 % interval, one panel a task.

    A variant's runs that are equal on all tasks share a row.
    """
    tasks = list(table.groupby("task", sort=False))
    places = findings.score_rows(table)
    labels = list(dict.fromkeys(places.values()))
    figure, [panels] = canvas(findings.equal_scores(table), 1.5 + 0.2 * len(labels), 1, len(tasks), sharey=True)
    for axes, (task, rows) in zip(panels, tasks, strict=True):
        for row in rows.to_dict("records"):
            place = labels.index(places[row["tf_version"], row["variant"]])
            colour = COLOURS[row["variant"]]
            if row["equal"]:
                axes.plot(0, place, "D", color=colour, markersize=5)
            elif np.isfinite(row["difference"]):
                axes.plot([row["low"], row["high"]], [place, place], "|-", color=colour)
                axes.plot(row["difference"], place, "o", color=colour, markersize=4)
            else:
                said = findings.number(row["difference"])
                axes.text(0, place, said, color=colour, fontsize=8, ha="center", va="center")
        [metric], [count] = rows["metric"].unique(), rows["items"].unique()
        axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
        axes.set_title(f"{task}\n({count} {'items' if metric == 'accuracy' else 'tokens'})", fontsize=9)
        axes.set_xlabel(f"difference in {metric}", fontsize=8)
        axes.margins(x=0.15)
    panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
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
    figure, [panels] = canvas(findings.moved_likelihoods(moved), 3.6, 1, len(moved), sharex=True, sharey=True)
    for axes, (variant, (ours, reference)) in zip(panels, of_variant.items(), strict=True):
        axes.plot(reference, ours, ".", color=COLOURS[variant], markersize=2, alpha=0.5)
        axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=0)
        axes.set_title(f"{variant}: {moved[variant].sum()} of {len(ours)} differ", fontsize=10)
        axes.set_xlabel("reference (nats)")
    panels[0].set_ylabel("log-likelihood (nats)")
    return figure


def perplexity_by_position(runs: dict[tuple[str, str], pd.DataFrame], task: str, bin_size: int = 16) -> Figure:
    """Draw exp of the mean -log p of tokens of a task by their position in the text, for each run, in bins."""
    tokens = {run: rows[rows["task"] == task] for run, rows in runs.items() if task in set(rows["task"])}
    overall = {run: findings.perplexity(rows["nats"]) for run, rows in tokens.items()}
    figure, [[axes]] = canvas(findings.perplexities(task, overall), 3.4)
    for (_, variant), rows in tokens.items():
        binned = findings.perplexity_by_bin(rows, bin_size)
        wide = {"original": 4.0, "fixed": 1.5}.get(variant, 1.0)  # original and fixed lie on each other
        axes.plot(binned.index, binned, color=COLOURS[variant], linewidth=wide)
        mark_undrawn(axes, binned.index, binned, COLOURS[variant])
    axes.set(xlabel="position in the text (tokens)", ylabel="perplexity per token", yscale="log")
    variants = in_order(variant for _, variant in tokens)
    axes.legend(handles=[Line2D([], [], color=COLOURS[variant], label=variant) for variant in variants])
    return figure
