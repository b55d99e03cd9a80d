"""Frames as the tables of a report: heads in words with units, digits that matter, numbers on the right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from opensci_lib.reports.findings import number, percent

#: The tint of a bar: text on it stays readable on light and on dark pages.
_BAR = "#d55e0066"


def _escaped(write: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: escape(write(value))


def _equality(equal: bool) -> str:
    return "equal" if equal else "differs"


def _of_predictions(share: float) -> str:
    return "" if pd.isna(share) else percent(share)


def _listed(write: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda values: ", ".join(write(value) for value in values)


def _count(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.0f}"


def _digits(digits: int, empty: str = "NaN") -> Callable[[Any], str]:
    def written(value: Any) -> str:
        if isinstance(value, str):  # said in words already
            return value
        return empty if pd.isna(value) else number(value, digits)

    return written


#: Columns of the library's frames: their head, and how a value is written.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "tf_version": ("transformers", str),
    "bitwise_equal": ("logits", _equality),
    "logits equal": ("logits", _equality),
    "inv_freq_equal": ("inv_freq", _equality),
    "same": ("scores", _equality),
    "max_abs_diff": ("largest |Δlogit|", _digits(3)),
    "mean_abs_diff": ("mean |Δlogit|", _digits(3)),
    "max_kl": ("largest KL (nats)", _digits(3)),
    "rope_max_abs_diff": ("largest |Δcos, Δsin|", _digits(3)),
    "top1_agreement": ("same top token", percent),
    "position": ("position (tokens)", _count),
    "token": ("token", repr),
    "next, left": ("next, left", repr),
    "next, right": ("next, right", repr),
    "top1_token": ("next token", repr),
    "top2_token": ("second", repr),
    "gap": ("lead (logits)", _digits(4)),
    "seconds": ("time (s)", "{:.2f}".format),
    "agreement": ("same prediction", _of_predictions),
    "changed": ("changed", _count),
    "p_value": ("McNemar p", _digits(2, empty="")),
    "largest_change": ("largest change (nats)", _digits(3)),
    "max_change": ("largest change of log p (nats)", _digits(3)),
    "top_change": ("among the likeliest (nats)", _digits(3)),
    "same_top": ("same likeliest token", str),
    "shared": ("of the five likeliest in both", str),
    "low": ("95 % from", _digits(3)),
    "high": ("to", _digits(3)),
    "original": ("original", _digits(3, empty="")),  # not all scores were published
    "patched_5_2": ("patched for 5.2", _digits(3, empty="")),
    "choices": ("choices", _listed(str)),
    "loglikelihoods": ("log-likelihoods (nats)", _listed(_digits(4))),
    "lowest": ("lowest", _digits(9)),
    "highest": ("highest", _digits(9)),
}
#: Words that begin with a number, and how many characters make a column of text that wants room.
_NUMBERS, _LONG = ["reference", "lowest", "highest", "score"], 60


def table(frame: pd.DataFrame, note: str = "", bars: tuple[str, str] | None = None) -> Styler:
    """Return a frame as reports show it.

    Args:
        frame: its index is not shown.
        note: a sentence above the table.
        bars: a column of numbers to draw as bars from 0, and the column that says which rows share a unit.

    """
    formats = dict.fromkeys(frame, str) | dict.fromkeys(frame.select_dtypes("float"), _digits(3))
    formats |= {name: _COLUMNS[name][1] for name in frame if name in _COLUMNS}
    frame = frame.reset_index(drop=True)
    styler = Styler(frame, cell_ids=False, uuid_len=6)
    styler.hide()
    styler.format({name: _escaped(write) for name, write in formats.items()})
    styler.format_index(lambda name: _COLUMNS.get(name, (name,))[0], axis="columns")
    right = [*frame.select_dtypes("number"), *frame.columns.intersection(_NUMBERS)]
    styles = dict.fromkeys(right, "text-align: right; white-space: nowrap")
    styles |= {name: "min-width: 18rem" for name in frame if frame[name].astype(str).str.len().max() > _LONG}
    if bars:
        column, unit = bars
        styles[column] += "; min-width: 12rem"
        for _, rows in frame.groupby(unit):
            limit = rows[column].abs().max()
            styler.bar(subset=(rows.index, column), align=0, vmin=-limit, vmax=limit, color=_BAR)
    styler.set_table_styles({name: [{"selector": "", "props": props}] for name, props in styles.items()})
    if note:
        styler.set_caption(escape(note))
    return styler


def quotation(sentences: Iterable[str]) -> Markdown:
    """Return sentences as a report's findings: their Markdown holds, and what would be HTML is text."""
    return Markdown("\n>\n".join(f"> {escape(sentence, quote=False)}" for sentence in sentences))


def unequal(frame: pd.DataFrame, equal: pd.Series) -> Styler | Markdown:
    """Return the table of the rows that are not equal, or a sentence where all are."""
    if equal.all():
        return Markdown(f"All {len(frame)} rows are equal to the reference, bit for bit.")
    return table(
        frame[~equal], f"{equal.sum()} of {len(frame)} rows are equal to the reference, bit for bit, and left out."
    )


def varying(frame: pd.DataFrame) -> Styler:
    """Return the table of the first column and of those that vary, below a sentence that tells the others."""
    constant = [name for name in frame.columns[1:] if frame[name].astype(str).nunique(dropna=False) == 1]
    note = ", ".join(f"{name} {frame[name].iloc[0]}" for name in constant)
    return table(frame.drop(columns=constant), f"The same in all: {note}." if note else "")
