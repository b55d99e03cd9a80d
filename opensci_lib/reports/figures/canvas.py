"""What all figures share: the palette, the width of a report, a title that states the finding."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

# Okabe and Ito (2008), a palette that colour-blind readers can tell apart.
COLOURS = {
    "original": "#000000",
    "minimal": "#D55E00",
    "fixed": "#0072B2",
    "vllm": "#009E73",
    "left": "#000000",
    "right": "#0072B2",
}
EQUAL, DIFFERENT = "#0072B2", "#D55E00"
GREY, LIGHT_GREY = "#999999", "#DDDDDD"
_WIDTH, _DPI = 9.0, 200  # inches, the width of a report's column; and dots an inch, enough for a phone's fine screen


class _Figure(Figure):
    """A figure that notebooks show with its finding as text above the picture, in which the title is left out."""

    title: Text

    def __repr__(self) -> str:
        return self.get_suptitle()

    def _repr_html_(self) -> str:
        picture, finding = BytesIO(), repr(self)
        self.title.set(visible=False, in_layout=False)
        self.savefig(picture, dpi=_DPI)
        self.title.set(visible=True, in_layout=True)
        shown = [text for axes in self.axes for text in (axes.get_title(), axes.get_ylabel(), axes.get_xlabel())]
        alt = f"{finding}. In the picture: {', '.join(dict.fromkeys(filter(None, shown)))}".replace("\n", " ")
        data = base64.b64encode(picture.getvalue()).decode()
        image = f'<img width="{100 * _WIDTH:.0f}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        return f'<figure><figcaption>{escape(finding)}</figcaption><div class="scroll">{image}</div></figure>'


def canvas(finding: str, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure of a height in inches, titled with what it shows, and its axes, (rows, columns)."""
    figure = _Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.title = figure.suptitle(finding, fontsize=11, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def mark_undrawn(axes: Axes, places: Any, values: Any, colour: str) -> None:
    """Mark near the upper edge where a value is NaN or infinite: a line would only have a gap there."""
    gone = np.asarray(places)[~np.isfinite(values)]
    axes.plot(gone, np.full(len(gone), 0.96), "x", color=colour, transform=axes.get_xaxis_transform())


def say_equal(axes: Axes) -> None:
    """Say so where all that is drawn is equal to the reference: a line on zero alone looks like an empty panel."""
    axes.text(0.5, 0.75, "equal, bit for bit", transform=axes.transAxes, ha="center", color=EQUAL, fontsize=12)
