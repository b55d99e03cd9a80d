"""What the variants of one release computed, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from opensci_lib.reports import findings
from opensci_lib.reports.figures.canvas import COLOURS, GREY, canvas
from opensci_lib.runs.capture import Capture


def top_tokens(best: dict[str, list[dict[str, Any]]]) -> Figure:
    """Draw each variant's likeliest next tokens (`top_tokens` in `run.json`) as bars of their logits.

    Of an engine that tells no logits the bars are log-probabilities.
    """
    finding = findings.of_each({variant: findings.lead(tokens) for variant, tokens in best.items()})
    figure, [panels] = canvas(finding, 2.6, 1, len(best), sharex=True)
    for axes, (variant, tokens) in zip(panels, best.items(), strict=True):
        colours = [COLOURS[variant]] + [GREY] * (len(tokens) - 1)
        name, told = ("logit", "logit") if "logit" in tokens[0] else ("logprob", "log-probability (nats)")
        bars = axes.barh(range(len(tokens)), [entry[name] for entry in tokens], color=colours)
        axes.bar_label(bars, fmt="%.6g", padding=3)
        axes.set_yticks(range(len(tokens)), [repr(entry["token"]) for entry in tokens])
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.set_title(variant, fontsize=10)
        axes.set_xlabel(f"{told} of the next token")
    return figure


def surprisal(captures: dict[str, Capture], prompt: int) -> Figure:
    """Draw each variant's -log p(next token) at each position of a captured prompt, in nats."""
    nats = {variant: capture[f"{prompt}.surprisal"] for variant, capture in captures.items()}
    first = next(iter(captures.values()))
    words = len(first[f"{prompt}.next_logits"]) if f"{prompt}.next_logits" in first else None
    said = {variant: findings.mean_surprisal(values, words) for variant, values in nats.items()}
    figure, [[axes]] = canvas(findings.of_each(said), 2.6)
    for number, (variant, values) in enumerate(nats.items()):
        size = 6 - 3 * number  # where two lie on each other, the first shows from under the second
        axes.plot(np.arange(1, len(values) + 1), values, ".", color=COLOURS[variant], markersize=size, label=variant)
        if len(values):
            axes.axhline(values.mean(), color=COLOURS[variant], linewidth=2 - number, label=f"{variant}, mean")
    if words is not None:
        axes.axhline(np.log(words), color=GREY, linestyle="--", label="uniform guess")
    axes.set(xlabel="position in the prompt (tokens)", ylabel="surprisal (nats)")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, ncols=5, frameon=False)
    return figure


def rotary(captures: dict[str, Capture], prompt: int) -> Figure:
    """Draw the cosines that the layers received, by position and frequency, beside inv_freq: a row a variant."""
    ranges = {
        variant: findings.inv_freq_range(capture[f"{prompt}.inv_freq"]) for variant, capture in captures.items()
    }
    figure, panels = canvas(
        findings.of_each(ranges), 0.6 + 2.2 * len(captures), len(captures), 2, width_ratios=[2, 1], sharex="col"
    )
    for (image, curve), (variant, capture) in zip(panels, captures.items(), strict=True):
        cos, inv_freq = capture[f"{prompt}.cos"].astype(np.float64), capture[f"{prompt}.inv_freq"]
        pairs = cos[:, : len(inv_freq)].T  # the second half of head_dim repeats the first
        drawn = image.imshow(pairs, aspect="auto", cmap="cividis", vmin=-1, vmax=1, origin="lower")
        figure.colorbar(drawn, ax=image, label="cos")
        image.set_ylabel(f"{variant}\nfrequency index")
        curve.plot(inv_freq, "o-", color=COLOURS[variant], markersize=3)
        curve.set_ylabel("inv_freq (radians a token)", fontsize=8)
        if (inv_freq > 0).all():
            curve.set_yscale("log")
    panels[-1][0].set_xlabel("position in the prompt (tokens)")
    panels[-1][1].set_xlabel("frequency index")
    return figure
