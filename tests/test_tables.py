"""Frames as tables of a report."""

import re

import pandas as pd
from bs4 import BeautifulSoup

from opensci_lib.reports.tables import table, unequal, varying

NAN = float("nan")


def shown(styler):
    """Return the note, and the rows with their heads."""
    page = BeautifulSoup(styler.to_html(), "html.parser")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in page.find_all("tr")]
    return page.caption and page.caption.get_text(), rows


def test_heads_have_words_and_units_and_numbers_the_digits_that_matter():
    frame = pd.DataFrame(
        {
            "tf_version": ["5.2.0", "5.10.0"],
            "bitwise_equal": [True, False],
            "max_abs_diff": [0.0, NAN],
            "max_kl": [1.23456e-9, 1234.56],
            "top1_agreement": [1.0, 0.99999],
            "position": [NAN, 12.0],
            "top1_token": [" a", "<b>"],
            "p_value": [NAN, 0.00123],
            "agreement": [NAN, 0.5],
            "choices": [[" b", "<c>"], []],
            "loglikelihoods": [[-1.23456, NAN], []],
            "other": [1 / 3, 12345.678],
            "whole": [3, 45],
        }
    )
    assert shown(table(frame, "Two rows.")) == (
        "Two rows.",
        [
            ["transformers", "logits", "largest |Δlogit|", "largest KL (nats)", "same top token", "position (tokens)",
             "next token", "McNemar p", "same prediction", "choices", "log-likelihoods (nats)", "other", "whole"],
            ["5.2.0", "equal", "0", "1.23e-09", "100 %", "", "' a'", "", "", " b, <c>", "-1.235, NaN", "0.333", "3"],
            ["5.10.0", "differs", "NaN", "1235", "99.999 %", "12", "'<b>'", "0.0012", "50 %", "", "", "12346", "45"],
        ],
    )  # fmt: skip


def test_numbers_stand_on_the_right_and_words_do_not():
    frame = pd.DataFrame({"name": ["a"], "count": [1], "share": [0.5], "score": ["98 %"]})
    page = BeautifulSoup(table(frame).to_html(), "html.parser")
    rules = page.style.get_text()
    right = [column for column in range(4) if f".col{column} {{\n  text-align: right" in rules]
    assert right == [1, 2, 3]


def test_bars_reach_as_far_as_the_largest_of_their_unit():
    frame = pd.DataFrame({"unit": ["points", "points", "nats"], "change": [-50.0, 25.0, 3.0]}, index=[7, 7, 7])
    page = BeautifulSoup(table(frame, bars=("change", "unit")).to_html(), "html.parser")
    bars = re.findall(r"row(\d)_col1 {.*?gradient\(90deg, (.*?)\)", page.style.get_text(), re.DOTALL)
    assert [(row, re.findall(r"#d55e0066 ([\d.]+)%", stops)) for row, stops in bars] == [
        ("0", ["50.0"]), ("1", ["50.0", "75.0"]), ("2", ["50.0", "100.0"]),
    ]  # fmt: skip


def test_a_table_that_is_all_equal_is_a_sentence():
    frame = pd.DataFrame({"tf_version": ["5.2.0", "5.3.0"], "prompt": [0, 1]})
    all_equal = unequal(frame, pd.Series([True, True]))
    assert all_equal.data == "All 2 rows are equal to the reference, bit for bit."
    note, rows = shown(unequal(frame, pd.Series([True, False])))
    assert note == "1 of 2 rows are equal to the reference, bit for bit, and left out."
    assert rows == [["transformers", "prompt"], ["5.3.0", "1"]]


def test_what_is_the_same_in_all_rows_is_said_once():
    frame = pd.DataFrame({"run": ["a", "b"], "dtype": ["float32"] * 2, "tasks": [["x"]] * 2, "seconds": [1.5, 2.0]})
    assert shown(varying(frame)) == (
        "The same in all: dtype float32, tasks ['x'].",
        [["run", "time (s)"], ["a", "1.50"], ["b", "2.00"]],
    )
    assert shown(varying(frame[["run", "seconds"]]))[0] is None
    engines = pd.DataFrame({"run": ["a", "b"], "vllm": [None, "0.32.0"], "limit": [None, None]})
    note, rows = shown(varying(engines))
    assert (note, rows[0]) == ("The same in all: limit None.", ["run", "vllm"])
    assert shown(varying(frame[:1]))[1] == [["run"], ["a"]]  # the first column stays
