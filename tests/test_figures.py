"""What the figures draw, read back from their axes: every number at its place, in its colour."""

import base64
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from opensci_lib.reports import figures, findings
from opensci_lib.runs.capture import CaptureWriter
from tests.hand_made import STAGES, make_run, tensors

NAN, INF = float("nan"), float("inf")
BLUE, ORANGE, BLACK, GREY = "#0072b2", "#d55e00", "#000000", "#dddddd"


def draw(figure):
    """Draw a figure to its last pixel, where limits of NaN or infinity would fail, and return title and axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    return repr(figure), figure.axes


def frame(columns, *rows):
    return pd.DataFrame(rows, columns=columns.split())


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def texts(axes):
    """Return {(x, y): text} of what stands in the axes."""
    return {text.get_position(): text.get_text() for text in axes.texts}


def lines(axes, marker="None"):
    """Return (colour, x, y) of each line with a point, of those with this marker."""
    return [
        (to_hex(line.get_color()), list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if line.get_marker() == marker and len(line.get_xdata())
    ]


def cells(axes):
    """Return the colours of a picture's cells, row by row; None where one is blank."""
    [image] = axes.images
    colours = image.to_rgba(image.get_array())
    return [[to_hex(cell) if cell[3] else None for cell in row] for row in colours]


def same(found, expected):
    np.testing.assert_array_equal(np.asarray(found, float), np.asarray(expected, float))


# One release


def test_top_tokens_are_bars_in_their_order():
    best = [{"token": " Paris", "logit": 4.5}, {"token": "?", "logit": 1.25}, {"token": "?", "logit": 0.00004}]
    other = [{"token": " Rome", "logit": 2.0}, {"token": " Oslo", "logit": 2.0}]
    title, [axes, second] = draw(figures.top_tokens({"fixed": best, "minimal": other}))
    assert title == "fixed: ' Paris' leads '?' by 3.25 logits\nminimal: ' Rome' and ' Oslo' have the same logit"
    assert [axes.get_title(), second.get_title()] == ["fixed", "minimal"]
    assert [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in second.patches] == [
        (2.0, ORANGE), (2.0, "#999999"),
    ]  # fmt: skip
    assert ticks(axes.yaxis) == ["' Paris'", "'?'", "'?'"]  # two tokens may be written alike
    bars = [
        (bar.get_width(), bar.get_y() + bar.get_height() / 2, to_hex(bar.get_facecolor())) for bar in axes.patches
    ]
    assert bars == [(4.5, 0, BLUE), (1.25, 1, "#999999"), (0.00004, 2, "#999999")]
    assert [text.get_text() for text in axes.texts] == ["4.5", "1.25", "4e-05"]
    assert axes.yaxis_inverted()


def test_log_probabilities_are_bars_where_an_engine_tells_no_logits():
    best = [{"token": " Paris", "logprob": -0.5}, {"token": "?", "logprob": -2.0}]
    title, [axes] = draw(figures.top_tokens({"vllm": best}))
    assert title == "' Paris' leads '?' by 1.5 logits"
    assert [bar.get_width() for bar in axes.patches] == [-0.5, -2.0]
    assert axes.get_xlabel() == "log-probability (nats) of the next token"


def test_surprisal_needs_no_logits(tmp_path):
    run = make_run(tmp_path, "5.19.0", "vllm")
    with CaptureWriter(run.path / "capture.safetensors", ["A"]) as writer:
        writer.add("0.surprisal", np.array([1.0, 2.0]))
    title, [axes] = draw(figures.surprisal({"vllm": run.capture}, 0))
    assert title == "The model spends 1.5 nats a token"
    assert lines(axes, ".") == [("#009e73", [1, 2], [1.0, 2.0])]


def test_surprisal_is_drawn_at_the_position_of_the_token(tmp_path):
    nats = np.array([1.0, 4.0])
    other = {"surprisal": np.array([9.0, 9.0]), "next_logits": np.zeros(5, np.float32)}
    capture = make_run(tmp_path, prompts=(other, {"surprisal": nats, "next_logits": np.zeros(8, np.float32)})).capture
    worse = {"surprisal": np.array([2.0, 6.0]), "next_logits": np.zeros(8, np.float32)}
    minimal = make_run(tmp_path, "5.2.0", "minimal", prompts=(other, worse)).capture
    title, [axes] = draw(figures.surprisal({"original": capture, "minimal": minimal}, 1))
    assert title == (
        "original: The model spends 2.5 nats a token; a uniform guess spends 2.08\n"  # ln 8
        "minimal: The model spends 4 nats a token; a uniform guess spends 2.08"
    )
    assert lines(axes, ".") == [(BLACK, [1, 2], [1.0, 4.0]), (ORANGE, [1, 2], [2.0, 6.0])]
    assert lines(axes) == [
        (BLACK, [0, 1], [2.5] * 2), (ORANGE, [0, 1], [4.0] * 2), ("#999999", [0, 1], [math.log(8)] * 2),
    ]  # fmt: skip
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "original", "original, mean", "minimal", "minimal, mean", "uniform guess",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("nats", "title"),
    [
        ([1.0, NAN], "The model spends NaN nats a token; a uniform guess spends 0.693"),
        ([1.0, INF], "The model spends inf nats a token; a uniform guess spends 0.693"),
        ([], "The prompt has one token: there is none to predict"),
    ],
)
def test_surprisal_without_a_mean_is_drawn_all_the_same(tmp_path, nats, title):
    run = make_run(tmp_path, prompts=({"surprisal": np.array(nats)},))
    assert draw(figures.surprisal({"fixed": run.capture}, 0))[0] == title


def test_rotary_shows_each_frequency_once(tmp_path):
    """Up the picture the frequencies, along it the positions; inv_freq beside it."""
    cos = np.array([[1.0, 1.0, 1.0, 1.0], [0.5, 0.75, 0.5, 0.75], [-1.0, 0.25, -1.0, 0.25]], np.float32)
    capture = make_run(tmp_path, prompts=({}, {"cos": cos})).capture
    turned = make_run(tmp_path, "5.2.0", "minimal", prompts=({}, {"cos": -cos})).capture
    title, [image, curve, below, _, *_] = draw(figures.rotary({"fixed": capture, "minimal": turned}, 1))
    assert [image.get_ylabel(), below.get_ylabel()] == ["fixed\nfrequency index", "minimal\nfrequency index"]
    assert below.images[0].get_array().tolist() == [[-1.0, -0.5, 1.0], [-1.0, -0.75, -0.25]]
    assert title == "inv_freq runs from 0.5 to 0.25 radians a token"
    assert image.images[0].get_array().tolist() == [[1.0, 0.5, -1.0], [1.0, 0.75, 0.25]]
    assert image.images[0].get_clim() == (-1, 1)
    assert image.images[0].origin == "lower"
    assert lines(curve, "o") == [(BLUE, [0, 1], [0.5, 0.25])]
    assert curve.get_yscale() == "log"


@pytest.mark.parametrize("garbage", [[1e30, -56.5], [NAN, 0.25], [INF, 0.25], [0.0, 0.0]])
def test_rotary_draws_garbage(tmp_path, garbage):
    inv_freq = np.array(garbage, np.float32)
    run = make_run(tmp_path, prompts=({"inv_freq": inv_freq},))
    _, [_, curve, _] = draw(figures.rotary({"minimal": run.capture}, 0))
    [(_, _, drawn)] = lines(curve, "o")
    same(drawn, inv_freq)


# Parity

PARITY = frame(
    "tf_version variant prompt bitwise_equal max_abs_diff",
    ("5.10.4", "fixed", 0, True, 0.0), ("5.10.4", "fixed", 1, False, 0.5),
    ("5.10.4", "minimal", 0, False, 8.0), ("5.10.4", "minimal", 1, False, 0.25),
    ("5.9.0", "minimal", 0, False, 0.25), ("5.9.0", "minimal", 1, False, NAN),
    ("5.9.0", "fixed", 0, True, 0.0), ("5.9.0", "fixed", 1, True, 0.0),
    ("4.48.0", "original", 0, True, 0.0), ("4.48.0", "original", 1, True, 0.0),
)  # fmt: skip


def test_each_release_has_its_own_cell():
    title, [axes] = draw(figures.parity_matrix(PARITY))
    assert title == (
        "Releases whose logits are the reference's, bit for bit: original 1 of 1, minimal 0 of 2, fixed 1 of 2"
    )
    assert ticks(axes.xaxis) == ["4.48.0", "5.9.0", "5.10.4"]
    assert ticks(axes.yaxis) == ["original", "minimal", "fixed"]
    assert axes.get_ylim() == (2.5, -0.5)  # the first one on top
    assert texts(axes) == {
        (0, 0): "equal",
        (1, 1): "off by NaN", (2, 1): "off by 8",
        (1, 2): "equal", (2, 2): "off by 0.5",
    }  # fmt: skip
    colours = {tuple(np.round(patch.get_center())): to_hex(patch.get_facecolor()) for patch in axes.patches}
    assert colours == {(0, 0): BLUE, (1, 1): ORANGE, (2, 1): ORANGE, (1, 2): BLUE, (2, 2): ORANGE}


def test_many_releases_are_written_upright():
    many = pd.concat([PARITY[:1].assign(tf_version=f"5.{minor}.0") for minor in range(13)])
    for rows, turn in ((many, 90), (many[:12], 0)):
        _, [axes] = draw(figures.parity_matrix(rows))
        assert {text.get_rotation() for text in [*axes.texts, *axes.get_xticklabels()]} == {turn}


def test_a_family_has_a_panel_a_variant():
    """The second checkpoint ran on other releases than the first; what did not run is blank."""
    large = PARITY[PARITY["tf_version"] != "5.9.0"].assign(model="org--large", revision="4000")
    default = PARITY[PARITY["tf_version"] != "5.10.4"].assign(model="org--large", revision="")
    title, panels = draw(figures.family_parity(pd.concat([large, default], ignore_index=True)))
    assert title == (
        "2 checkpoints; runs with their reference's logits, bit for bit: "
        "original 2 of 2, minimal 0 of 2, fixed 1 of 2"
    )
    assert [panel.get_title() for panel in panels] == ["original", "minimal", "fixed"]
    for panel in panels:
        assert [text for text in ticks(panel.xaxis) if text] == ["4.48.0", "5.9.0", "5.10.4"]
    assert ticks(panels[0].yaxis) == ["large 4000", "large"]
    assert [cells(panel) for panel in panels] == [
        [[BLUE, None, None], [BLUE, None, None]],
        [[None, None, ORANGE], [None, ORANGE, None]],
        [[None, None, ORANGE], [None, BLUE, None]],
    ]


# Scores of a family

SCORES = frame(
    "model revision task metric variant tf_version score reference",
    ("org--large", "2000", "facts", "accuracy", "original", "4.48.0", 0.5, 0.5),
    ("org--large", "2000", "facts", "accuracy", "minimal", "5.9.0", 0.25, 0.5),
    ("org--large", "2000", "facts", "accuracy", "minimal", "5.10.4", 0.375, 0.5),
    ("org--large", "4000", "facts", "accuracy", "original", "4.48.0", 0.75, 0.75),
    ("org--small", "", "facts", "accuracy", "minimal", "5.9.0", NAN, 0.5),
    ("org--large", "2000", "prose", "nats per token", "original", "4.48.0", 3.0, 3.0),
)


def test_scores_of_a_family_are_drawn_at_their_checkpoint():
    title, [facts, prose] = draw(figures.family_scores(SCORES))
    assert title == "Scores that are the original's on every release evaluated: original 3 of 3, minimal 0 of 2"
    assert [(axes.get_title(), axes.get_ylabel()) for axes in (facts, prose)] == [
        ("facts", "accuracy"), ("prose", "nats per token"),
    ]  # fmt: skip
    assert ticks(facts.xaxis) == ["large 2000", "large 4000", "small"]
    assert lines(facts, "o")[:2] == [(BLACK, [0, 1], [0.5, 0.75]), (ORANGE, [0], [0.3125])]  # (0.25 + 0.375) / 2
    assert lines(facts, "x") == [(ORANGE, [2], [0.96])]  # NaN is marked near the upper edge
    assert lines(prose, "o") == [(BLACK, [0], [3.0])]
    spans = [bars for bars in facts.collections if isinstance(bars, LineCollection)]
    assert [to_hex(bars.get_color()[0]) for bars in spans] == [BLACK, ORANGE, ORANGE]
    assert [segment.tolist() for segment in spans[0].get_segments()] == [[[0, 0.5], [0, 0.5]], [[1, 0.75], [1, 0.75]]]
    assert [segment.tolist() for segment in spans[1].get_segments()] == [[[0, 0.25], [0, 0.375]]]


# How far apart


def positions(*runs):
    """Return rows of `positions.csv` from (release, variant, prompt, differences); 0 is bitwise equal."""
    rows = [
        (release, variant, prompt, place, value == 0, value)
        for release, variant, prompt, values in runs
        for place, value in enumerate(values)
    ]
    return frame("tf_version variant prompt position bitwise_equal max_abs_diff", *rows)


def test_a_line_is_a_run_and_4_stands_beside_5():
    table = positions(
        ("5.10.4", "minimal", 1, [0, 2.0, 4.0]), ("5.9.0", "minimal", 1, [8.0, 1.0, 1.0]),
        ("5.9.0", "fixed", 1, [0, 0, 0]), ("4.48.0", "original", 1, [0, 0, 1e-7]),
        ("5.9.0", "minimal", 0, [99.0]),
    )  # fmt: skip
    title, [four, five] = draw(figures.logit_difference(table, 1))
    assert title == "Largest logit difference: original 1e-07, minimal 8, fixed 0"
    assert [four.get_title(loc="left"), five.get_title(loc="left")] == ["transformers 4.x", "transformers 5.x"]
    assert lines(four) == [(BLACK, [0, 1, 2], [0, 0, 1e-7])]
    assert lines(five) == [
        (ORANGE, [0, 1, 2], [8.0, 1.0, 1.0]), (BLUE, [0, 1, 2], [0, 0, 0]), (ORANGE, [0, 1, 2], [0, 2.0, 4.0]),
    ]  # fmt: skip
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (four, five)]
    assert labels == [["original, 1 release"], ["minimal, 2 releases", "fixed, 1 release"]]
    assert [text for axes in (four, five) for text in texts(axes)] == []  # neither is equal throughout
    low, high = five.get_ylim()
    assert low < 0
    assert high > 8
    height = four.transData.transform([(0, low), (0, 0), (0, 1e-7), (0, high)])[:, 1]
    assert (height[2] - height[1]) / (height[3] - height[0]) > 0.01  # not on the line of 0


def test_one_major_release_has_the_room_to_itself_and_says_that_it_is_equal():
    rows = positions(
        *(("4.9.0", variant, 0, [0, 0]) for variant in ("original", "fixed")), ("5.0.0", "fixed", 0, [1])
    )
    _, [axes, _] = draw(figures.logit_difference(rows, 0))
    [said] = axes.texts
    assert not said.get_window_extent().overlaps(axes.get_legend().get_window_extent())
    _, [axes] = draw(figures.logit_difference(positions(("5.9.0", "fixed", 0, [0, 0])), 0))
    assert list(texts(axes).values()) == ["equal, bit for bit"]
    assert "0, equal" in ticks(axes.yaxis)
    signed = positions(("5.9.0", "fixed", 0, [0, 0])).assign(bitwise_equal=False)  # 0.0 is not -0.0
    assert texts(figures.logit_difference(signed, 0).axes[0]) == {}


@pytest.mark.parametrize("values", [[0, NAN, 1.0], [0, INF, 1.0], [NAN, NAN], [INF, INF]])
def test_positions_that_no_line_reaches_are_marked(values):
    title, [axes] = draw(figures.logit_difference(positions(("5.9.0", "minimal", 0, values)), 0))
    assert title in ("Largest logit difference: minimal NaN", "Largest logit difference: minimal inf")
    lost = [place for place, value in enumerate(values) if not math.isfinite(value)]
    assert lines(axes, "x") == [(ORANGE, lost, [0.96] * len(lost))]


def test_cosines_have_a_panel_a_run_that_differs(tmp_path):
    """On the second prompt; runs that are equal have none."""
    flat = np.ones((3, 4), np.float32)
    off, lost = flat.copy(), flat.copy()
    off[2, 1], lost[1, 0] = -0.5, NAN
    reference = make_run(tmp_path, prompts=({}, {"cos": flat}))
    runs = [
        make_run(tmp_path, "5.10.4", "fixed", prompts=({}, {"cos": flat})),
        make_run(tmp_path, "5.10.4", "minimal", prompts=({}, {"cos": lost})),
        make_run(tmp_path, "5.9.0", "fixed", prompts=({}, {"cos": off})),
    ]
    title, axes = draw(figures.rope_difference(reference, runs, 1))
    assert title == ("Cosines of the rotary embedding, largest difference from the reference: minimal NaN, fixed 1.5")
    lost_one, off_one, _ = axes
    assert [panel.get_title() for panel in (lost_one, off_one)] == ["minimal 5.10.4", "fixed 5.9.0"]
    assert off_one.images[0].get_array().tolist() == [[0, 0, 0], [0, 0, 1.5]]
    assert off_one.images[0].origin == "lower"
    assert off_one.images[0].get_clim() == (0, 2)
    assert cells(lost_one)[0][1] == ORANGE  # NaN
    assert ORANGE not in (cells(off_one)[0][0], cells(off_one)[1][2])
    assert cells(off_one)[0][0] != cells(off_one)[1][2]


def test_equal_cosines_say_so_instead_of_an_empty_panel(tmp_path):
    reference = make_run(tmp_path)
    run = make_run(tmp_path, "5.9.0", "fixed")
    _, [axes] = draw(figures.rope_difference(reference, [reference, run], 0))
    assert list(texts(axes).values()) == ["equal, bit for bit"]
    negative = make_run(tmp_path, "5.10.0", "fixed", prompts=({"cos": -np.zeros((3, 4), np.float32)},))
    zero = make_run(tmp_path, "4.49.0", prompts=({"cos": np.zeros((3, 4), np.float32)},))
    assert "" not in [axes.get_title() for axes in figures.rope_difference(zero, [negative], 0).axes[:1]]


def test_many_runs_stand_in_rows_of_six(tmp_path):
    reference = make_run(tmp_path)
    off = ({"cos": np.zeros((3, 4), np.float32)},)
    runs = [make_run(tmp_path, f"5.{minor}.0", "minimal", prompts=off) for minor in range(8)]
    _, axes = draw(figures.rope_difference(reference, runs, 0))
    panels = axes[:12]
    assert [panel.get_title() for panel in panels] == [f"minimal 5.{minor}.0" for minor in range(8)] + [""] * 4
    assert [panel.axison for panel in panels] == [True] * 8 + [False] * 4
    assert len({round(panel.get_position().y0, 3) for panel in panels}) == 2


def test_the_map_is_blue_only_where_stages_are_equal(tmp_path):
    fingerprints = tensors()["fingerprints"]
    other = np.stack([fingerprints[0] + [0, 1, 0], fingerprints[2], fingerprints[3] + [1, 1, 1]])
    reference = make_run(tmp_path, prompts=({}, {}))
    run = make_run(
        tmp_path, "5.2.0", "minimal", prompts=({"fingerprints": fingerprints[[0, 2, 3]]}, {"fingerprints": other}),
        stages=[STAGES[0], *STAGES[2:]],
    )  # fmt: skip
    [(name, differences)] = findings.divergences(reference, [run], 1).items()
    title, [axes] = draw(figures.divergence_map(name, differences))
    assert title == ("minimal on 5.2.0: 4 of 9 stage outputs differ from the reference; 1 stages are not in both")
    assert cells(axes) == [[BLUE, ORANGE, BLUE], [BLUE] * 3, [ORANGE] * 3]
    assert ticks(axes.yaxis) == ["the token embedding", "layer 0", "the logits"]
    later = differences.copy()
    later.loc[STAGES[0]] = 0.0
    later.loc[STAGES[2], 2] = 1.0
    _, [axes] = draw(figures.divergence_map(name, later))
    assert cells(axes) == [[BLUE] * 3, [None] * 3, [BLUE, BLUE, ORANGE], [ORANGE] * 3]
    assert ticks(axes.yaxis) == [
        "the token embedding", "layer 0, queries after RoPE", "layer 0, the attention output", "the logits",
    ]  # fmt: skip


def test_a_model_of_many_layers_stays_readable():
    stages = [f"model.layers.{layer}.{part}" for layer in range(24) for part in ("self_attn", "mlp")]
    differences = pd.DataFrame(0.0, index=stages, columns=range(3))
    differences.loc[stages[10:]] = 1.0
    _, [axes] = draw(figures.divergence_map("minimal on 5.2.0", differences))
    expected = [f"layer {layer}" for layer in range(24)]
    expected[5:6] = ["layer 5, the attention output", "layer 5, the MLP output"]
    assert ticks(axes.yaxis) == expected
    assert axes.figure.get_figheight() < 7


# Features


def test_the_matrix_of_features_marks_what_is_not_ok():
    compat = frame(
        "tf_version variant group feature result",
        ("5.10.4", "fixed", "weights", "whole", "fails"), ("5.10.4", "fixed", "logits", "right", "ok"),
        ("5.9.0", "fixed", "weights", "whole", "unsupported by this release"),
        ("5.9.0", "fixed", "logits", "right", "ok"), ("5.9.0", "fixed", "logits", "fast", "ok"),
        ("5.9.0", "minimal", "logits", "right", "fails"),
    )  # fmt: skip
    title, [axes] = draw(figures.compat_matrix(compat))
    assert title == "3 features on 2 releases: 1 checks fail, 1 unsupported, 1 not checked"
    assert ticks(axes.xaxis) == ["5.9.0", "5.10.4"]
    assert ticks(axes.yaxis) == ["whole", "right", "fast"]
    assert cells(axes) == [[GREY, ORANGE], [BLUE, BLUE], [BLUE, None]]
    marks = {place: text for place, text in texts(axes).items() if text in ("x", "-")}
    assert marks == {(1, 0): "x", (0, 0): "-"}
    groups = {text.xy[1]: text.get_text() for text in axes.texts if hasattr(text, "xy")}
    assert groups == {0.0: "weights", 1.5: "logits"}


def test_without_a_feature_nothing_is_claimed():
    with pytest.warns(UserWarning, match="identical low and high"):
        figure = figures.compat_matrix(frame("tf_version variant group feature result"))
    assert repr(figure) == "0 features on 0 releases: nothing was checked"


# Scores


def test_score_differences_stand_in_the_row_of_their_run():
    table = frame(
        "tf_version variant task metric items equal difference low high",
        ("5.10.4", "fixed", "facts", "accuracy", 8, True, 0.0, 0.0, 0.0),
        ("5.10.4", "fixed", "prose", "nats per token", 99, True, 0.0, 0.0, 0.0),
        ("5.9.0", "minimal", "facts", "accuracy", 8, False, -0.25, -0.5, 0.125),
        ("5.9.0", "minimal", "prose", "nats per token", 99, False, NAN, NAN, NAN),
        ("5.9.0", "fixed", "facts", "accuracy", 8, True, 0.0, 0.0, 0.0),
        ("5.9.0", "fixed", "prose", "nats per token", 99, False, INF, NAN, INF),
    )
    title, [facts, prose] = draw(figures.score_differences(table))
    assert title == "Releases whose scores are the reference's, bit for bit: minimal 0 of 1, fixed 1 of 2"
    assert ticks(facts.yaxis) == ["minimal 5.9.0", "fixed 5.9.0", "fixed 5.10.4"]
    assert facts.yaxis_inverted()
    assert [axes.get_title() for axes in (facts, prose)] == ["facts\n(8 items)", "prose\n(99 tokens)"]
    assert [axes.get_xlabel() for axes in (facts, prose)] == [
        "difference in accuracy",
        "difference in nats per token",
    ]
    assert lines(facts, "D") == [(BLUE, [0], [2]), (BLUE, [0], [1])]
    assert lines(facts, "o") == [(ORANGE, [-0.25], [0])]
    assert lines(facts, "|") == [(ORANGE, [-0.5, 0.125], [0, 0])]
    assert lines(prose, "D") == [(BLUE, [0], [2])]
    assert not lines(prose, "o")
    assert texts(prose) == {(0, 0): "NaN", (0, 1): "inf"}


def pairs(*rows):
    return frame("loglikelihoods_reference loglikelihoods", *rows)


def test_likelihoods_are_drawn_against_those_of_the_same_item():
    same = pairs(([-1.0, -2.0], [-1.0, -2.0]), ([-3.0], [-3.0]))
    moved = pairs(([-3.0], [NAN]), ([-1.0, -2.0], [-1.0, -2.5]))
    runs = {("5.2.0", "minimal"): moved, ("5.2.0", "fixed"): same, ("5.9.0", "minimal"): same}
    title, [minimal, fixed] = draw(figures.likelihood_scatter(runs))
    assert title == "Log-likelihoods lie on the diagonal, exactly, in 1 of 2 variants"
    assert [minimal.get_title(), fixed.get_title()] == ["minimal: 2 of 6 differ", "fixed: 0 of 3 differ"]
    assert lines(fixed, ".") == [(BLUE, [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])]
    [(colour, x, y)] = lines(minimal, ".")
    assert colour == ORANGE
    assert sorted(zip(x, map(str, y), strict=True)) == [
        (-3.0, "-3.0"), (-3.0, "nan"), (-2.0, "-2.0"), (-2.0, "-2.5"), (-1.0, "-1.0"), (-1.0, "-1.0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "run", "differ"),
    [
        (-1.0, -1.0, 0), (-1.0, np.nextafter(-1.0, 0), 1), (NAN, NAN, 0), (NAN, -1.0, 1), (-1.0, NAN, 1),
        (0.0, -0.0, 1), (-np.inf, -np.inf, 0),
    ],
)  # fmt: skip
def test_likelihoods_are_compared_by_bits(reference, run, differ):
    figure = figures.likelihood_scatter({("5.2.0", "fixed"): pairs(([reference], [run]))})
    assert figure.axes[0].get_title() == f"fixed: {differ} of 1 differ"


def test_perplexity_is_drawn_by_bins_of_positions():
    def tokens(*nats):
        return pd.DataFrame({"task": "prose", "position": np.arange(len(nats)), "nats": nats})

    other = pd.DataFrame({"task": ["facts"], "position": [0], "nats": [99.0]})
    runs = {
        ("5.2.0", "minimal"): pd.concat([other, tokens(1.0, 3.0, 5.0, NAN)]),
        ("5.9.0", "minimal"): tokens(0.0, 0.0, 2.0, 2.0),
        ("5.2.0", "original"): tokens(1.0, 1.0, 0.0, 2.0)[::-1],
        ("5.9.0", "fixed"): other,  # not evaluated on this task
    }
    title, [axes] = draw(figures.perplexity_by_position(runs, "prose", bin_size=2))
    assert title == "prose, perplexity over all: original 2.718, minimal NaN"  # e
    found = lines(axes)
    assert [(colour, x) for colour, x, _ in found] == [(ORANGE, [0, 2]), (ORANGE, [0, 2]), (BLACK, [0, 2])]
    assert found[0][2][0] == pytest.approx(math.e**2)  # and not (e + e^3) / 2
    assert math.isnan(found[0][2][1])
    assert found[1][2] == pytest.approx([1.0, math.e**2])
    assert found[2][2] == pytest.approx([math.e, math.e])
    assert lines(axes, "x") == [(ORANGE, [2], [0.96])]
    handles = [(text.get_text(), to_hex(line.get_color())) for text, line in zip(
        axes.get_legend().get_texts(), axes.get_legend().get_lines(), strict=True)]  # fmt: skip
    assert handles == [("original", BLACK), ("minimal", ORANGE)]
    assert axes.get_yscale() == "log"


def test_bins_hold_16_positions_unless_told_otherwise():
    tokens = pd.DataFrame({"task": "prose", "position": np.arange(40), "nats": np.arange(40.0)})
    _, [axes] = draw(figures.perplexity_by_position({("5.2.0", "fixed"): tokens}, "prose"))
    [(_, x, y)] = lines(axes)
    assert x == [0, 16, 32]
    assert y == pytest.approx(np.exp([7.5, 23.5, 35.5]))


def test_notebooks_show_the_finding_as_text_and_describe_the_picture():
    figure = figures.parity_matrix(PARITY[:2])
    page = BeautifulSoup(figure._repr_html_(), "html.parser")
    said = "Releases whose logits are the reference's, bit for bit: fixed 0 of 1"
    assert page.figcaption.get_text() == said == repr(figure)
    assert page.img["alt"] == f"{said}. In the picture: transformers release"
    kind, _, data = page.img["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert figure.title.get_visible()  # as it must be where the picture is saved


def test_a_finding_is_text_not_html():
    best = [{"token": "<b>", "logit": 4.5}, {"token": "&", "logit": 1.25}]
    page = BeautifulSoup(figures.top_tokens({"fixed": best})._repr_html_(), "html.parser")
    assert page.figcaption.get_text() == "'<b>' leads '&' by 3.25 logits"
    assert page.find("b") is None
