"""Which features work on which release."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from opensci_lib.reports import findings
from opensci_lib.reports.figures.canvas import DIFFERENT, EQUAL, LIGHT_GREY, canvas


def compat_matrix(compat: pd.DataFrame) -> Figure:
    """Draw what the fixed folder does: releases across, features by group down (the rows of `compat.csv`)."""
    codes = findings.feature_codes(compat)
    figure, [[axes]] = canvas(findings.failing_features(codes), 1.6 + 0.165 * len(codes))
    axes.imshow(codes, aspect="auto", cmap=ListedColormap([DIFFERENT, LIGHT_GREY, EQUAL]), vmin=0, vmax=2)
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
