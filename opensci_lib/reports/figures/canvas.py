"""What all figures share: the palette, the width of a report, a title that states the finding."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008), a palette that colour-blind readers can tell apart.
COLOURS = {"original": "#000000", "minimal": "#D55E00", "fixed": "#0072B2", "left": "#000000", "right": "#0072B2"}
EQUAL, DIFFERENT = "#0072B2", "#D55E00"
GREY, LIGHT_GREY = "#999999", "#DDDDDD"
_WIDTH = 9.0  # inches: the width of a report's column


class _Figure(Figure):
    """A figure that notebooks keep with its title as text, beside the picture."""

    def __repr__(self) -> str:
        return self.get_suptitle()


def canvas(finding: str, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure of a height in inches, titled with what it shows, and its axes, (rows, columns)."""
    figure = _Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(finding, fontsize=11, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def mark_undrawn(axes: Axes, places: Any, values: Any, colour: str) -> None:
    """Mark near the upper edge where a value is NaN or infinite: a line would only have a gap there."""
    gone = np.asarray(places)[~np.isfinite(values)]
    axes.plot(gone, np.full(len(gone), 0.96), "x", color=colour, transform=axes.get_xaxis_transform())
