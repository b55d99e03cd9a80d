"""Comparisons of hand-made runs: a pair whose every number is worked out here, and variations of it by one thing."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from opensci_lib.errors import OpensciError
from opensci_lib.reports.compare import (
    Run,
    compare_positions,
    describe_stage,
    difference,
    find_runs,
    first_divergence,
    parity,
    verdict,
)
from opensci_lib.runs.capture import Capture, CaptureWriter
from opensci_lib.runs.logits import COMPARED
from opensci_lib.runs.trace import Operation, encoded

pytestmark = pytest.mark.filterwarnings("error")

NAN, INF = math.nan, math.inf
PROMPTS = ["The capital of France is", "Hello"]
STAGES = ["model.embed_tokens", "model.layers.0.self_attn.q_rope", "model.layers.0.self_attn.k_rope", "lm_head"]
EQUAL = "equal to the reference, bit for bit"
UNEXPLAINED = "weights and inv_freq are right, so the computation differs"

#: Two prompts, of three and two tokens, over three words.
REFERENCE = {
    "0.token_ids": np.array([5, 6, 7]),
    "0.logits": np.array([[0, 2, 1], [4, 1, -1], [1, 3, 2]], np.float32),
    "0.cos": np.array([[1, 1, 1, 1], [0.5, 0.75, 0.5, 0.75], [-0.5, 0.25, -0.5, 0.25]], np.float32),
    "0.sin": np.array([[0, 0, 0, 0], [0.75, 0.25, 0.75, 0.25], [0.75, 0.5, 0.75, 0.5]], np.float32),
    "0.inv_freq": np.array([1, 0.25], np.float32),
    "0.fingerprints": np.arange(100, 112).reshape(4, 3),
    "1.token_ids": np.array([8, 9]),
    "1.logits": np.array([[7, 8, 9], [9, 8, 7]], np.float32),
    "1.cos": np.array([[1, 1, 1, 1], [0.5, 0.75, 0.5, 0.75]], np.float32),
    "1.sin": np.array([[0, 0, 0, 0], [0.75, 0.25, 0.75, 0.25]], np.float32),
    "1.inv_freq": np.array([1, 0.25], np.float32),
    "1.fingerprints": np.arange(200, 208).reshape(4, 2),
}

#: What the first prompt's tensors are in the other run of the pair; the second prompt's are the same.
OTHER = {
    "0.logits": np.array([[0, 2, 1], [4, 2.5, -1], [5, 3, -1]], np.float32),
    "0.cos": np.array([[1, 1, 1, 1], [0.5, 0.75, 0.5, 0.75], [-0.5, 0.25, -0.5, 0.5]], np.float32),
    "0.sin": np.array([[0, 0, 0, 0], [0.75, 0.25, 0.75, 0.25], [0.75, 0, 0.75, 0.5]], np.float32),
    "0.inv_freq": np.array([0, 1e12], np.float32),
    "0.fingerprints": np.array([[100, 101, 102], [103, 0, 105], [0, 107, 108], [109, 0, 0]]),
}

#: The record of the first run, and what it is in the other.
RECORD = {
    "settings": {"dtype": "float32"},
    "completions": [" Paris.", " there"],
    "top_tokens": [
        [{"token": " Paris", "logit": 3.5}, {"token": " Rome", "logit": 1.25}, {"token": " a", "logit": 1.0}],
        [{"token": " there", "logit": 9.0}, {"token": " all", "logit": 8.0}, {"token": " you", "logit": 7.0}],
    ],
    "weights": {"tensors": 74, "differing": []},
}
OTHER_RECORD = {
    "completions": [" Rome. Rome.", " all"],
    "top_tokens": [
        [{"token": " Rome", "logit": 5.0}, {"token": " Lyon", "logit": 3.0}, {"token": " a", "logit": -1.0}],
        [{"token": " you", "logit": 6.0}, {"token": " both", "logit": 5.5}, {"token": " all", "logit": 5.0}],
    ],
    "weights": {"tensors": 74, "differing": ["model.norm.weight", "lm_head.weight"]},
}


def write(folder, tensors, prompts=PROMPTS, stages=STAGES, reference=None):
    """Write a capture."""
    folder.mkdir(parents=True, exist_ok=True)
    with CaptureWriter(folder / "capture.safetensors", prompts, reference) as writer:
        writer.stages = stages
        for name, array in tensors.items():
            writer.add(name, array)
    return Capture(folder / "capture.safetensors")


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run, which is the reference but for what is given, and returns it."""

    def make(name="4.48.0/original", tensors=None, record=None, **capture):
        tf_version, variant = name.split("/")
        write(tmp_path / name, {**REFERENCE, **(tensors or {})}, **capture)
        told = {"variant": variant, "versions": {"transformers": tf_version}, **RECORD, **(record or {})}
        (tmp_path / name / "run.json").write_text(json.dumps(told))
        return Run(tmp_path / name)

    return make


def asked(**arguments) -> dict[str, np.ndarray]:
    """Return the first prompt's trace, of one operation, as a capture holds it."""
    return {"0.trace": np.frombuffer(encoded([Operation("aten.mm", arguments)]), np.uint8)}


def test_of_equal_runs_it_is_said_whether_they_were_bound_to_be_equal(make_run):
    reference = make_run(tensors=asked(self="float32[1]"))
    same = make_run("5.0.0/fixed", asked(self="float32[1]"))
    other = make_run("5.1.0/fixed", asked(self="float32[2]"))
    unequal = make_run("5.1.0/minimal", asked(self="float32[2]") | changed("0.logits", 0, 5))
    assert verdict(reference, same, 0) == f"{EQUAL}, and in operations: equal wherever torch is the same"
    assert verdict(reference, other, 0) == (
        f"{EQUAL}, on this machine, by other operations: "
        "operation 1 of 1, aten.mm: self float32[2] instead of float32[1]"
    )
    assert verdict(reference, unequal, 0).startswith("parts from the reference")
    assert verdict(reference, same, 1) == verdict(reference, make_run("5.2.0/fixed"), 0) == EQUAL
    assert [difference(reference, run, 0) for run in (same, other)] == [None, None]
    table, _ = parity(reference, [same, other])
    assert table["verdict"][0] == verdict(reference, same, 0)
    assert table["verdict"][2] == verdict(reference, other, 0)


def changed(name, index, value):
    """Return one tensor of the reference with one element replaced."""
    array = REFERENCE[name].copy()
    array[index] = value
    return {name: array}


@pytest.fixture
def compared(make_run):
    """Return a function that compares the reference with a run: (rows of parity.csv, rows of positions.csv)."""

    def compare(*args, **options):
        reference = make_run()
        run = make_run("5.2.0/fixed", *args, **options)
        table, positions = parity(reference, [run])
        # What is called alone says the same.
        for prompt, row in table.iterrows():
            assert verdict(reference, run, prompt) == row["verdict"]
            assert difference(reference, run, prompt) == (None if row["verdict"] == EQUAL else row["verdict"])
            alone = positions[positions["prompt"] == prompt].drop(columns=["tf_version", "variant", "prompt"])
            frame = compare_positions(reference.capture, run.capture, prompt)
            assert_frame_equal(frame, alone.reset_index(drop=True))
        return table, positions

    return compare


def kl(a, b):
    """The Kullback-Leibler divergence of softmax(a) from softmax(b)."""
    z_a, z_b = (sum(map(math.exp, row)) for row in (a, b))
    return sum(math.exp(x) / z_a * (x - math.log(z_a) - y + math.log(z_b)) for x, y in zip(a, b, strict=True))


# One pair, every number


def test_parity_by_value(make_run):
    reference = make_run()
    table, _ = parity(reference, [reference, make_run("5.2.0/minimal", OTHER, OTHER_RECORD)])
    apart = (
        "parts from the reference at layer 0, queries after RoPE, position 1: 2 of 74 tensors differ from the "
        "checkpoint: the model's own _init_weights overwrote them after loading; inv_freq holds [0, 1e+12, …] where "
        "[1, 0.25, …] belongs: the buffer was left as uninitialised memory after loading"
    )
    worst = kl([1, 3, 2], [5, 3, -1])  # of both positions that differ, the last is the worse
    assert worst > kl([4, 1, -1], [4, 2.5, -1])
    expected = {
        "tf_version": ["4.48.0", "4.48.0", "5.2.0", "5.2.0"],
        "variant": ["original", "original", "minimal", "minimal"],
        "prompt": [0, 1, 0, 1],
        "positions": [3, 2, 3, 2],
        "max_abs_diff": [0, 0, 4, 0],
        # rows differ by 0, 0, 0, then 0, 1.5, 0, then 4, 0, 3
        "mean_abs_diff": [0, 0, pytest.approx((0 + 1.5 / 3 + 7 / 3) / 3), 0],
        "max_kl": [0, 0, pytest.approx(worst), 0],
        "bitwise_equal": [True, True, False, True],
        "top1_agreement": [1, 1, pytest.approx(2 / 3), 1],
        "rope_max_abs_diff": [0, 0, 0.5, 0],  # of sin; of cos it is 0.25
        "inv_freq_equal": [True, True, False, True],
        "top1_token": [" Paris", " there", " Rome", " you"],
        "top1_logit": [3.5, 9, 5, 6],
        "top2_token": [" Rome", " all", " Lyon", " both"],
        "top2_logit": [1.25, 8, 3, 5.5],
        "gap": [2.25, 1, 2, 0.5],
        "completion": [" Paris.", " there", " Rome. Rome.", " all"],
        "verdict": [EQUAL, EQUAL, apart, EQUAL],
    }
    assert table.to_dict("list") == expected
    assert list(table.columns) == list(expected)


def test_positions_by_value(make_run):
    reference = make_run()
    _, positions = parity(reference, [reference, make_run("5.2.0/minimal", OTHER, OTHER_RECORD)])
    divergences = [kl([4, 1, -1], [4, 2.5, -1]), kl([1, 3, 2], [5, 3, -1])]
    expected = {
        "tf_version": ["4.48.0"] * 5 + ["5.2.0"] * 5,
        "variant": ["original"] * 5 + ["minimal"] * 5,
        "prompt": [0, 0, 0, 1, 1] * 2,
        "position": [0, 1, 2, 0, 1] * 2,
        "bitwise_equal": [True] * 5 + [True, False, False, True, True],
        "max_abs_diff": [0] * 5 + [0, 1.5, 4, 0, 0],
        "mean_abs_diff": [0] * 5 + [0, 0.5, pytest.approx(7 / 3), 0, 0],
        "kl": [0] * 5 + [0, *map(pytest.approx, divergences), 0, 0],
        "top1_agreement": [True] * 5 + [True, True, False, True, True],
        "cos_abs_diff": [0] * 5 + [0, 0, 0.25, 0, 0],
        "sin_abs_diff": [0] * 5 + [0, 0, 0.5, 0, 0],
    }
    assert positions.to_dict("list") == expected
    assert list(positions.columns) == list(expected)
    assert list(positions.index) == list(range(10))


def test_what_is_told_is_told_of_the_run(compared):
    """With the same tensors, the run's own tokens, completions and weights are in the table."""
    table, _ = compared(record=OTHER_RECORD)
    assert table["top1_token"].tolist() == [" Rome", " you"]
    assert table["top2_token"].tolist() == [" Lyon", " both"]
    assert table["gap"].tolist() == [2, 0.5]
    assert table["completion"].tolist() == [" Rome. Rome.", " all"]
    assert table["verdict"].tolist() == [EQUAL, EQUAL]


# The same pair but for one thing


@pytest.mark.parametrize(("prompt", "last"), [(0, 2), (1, 1)])
@pytest.mark.parametrize("at_last", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_one_unit_in_the_last_place(make_run, prompt, last, at_last, dtype):
    name, position = f"{prompt}.logits", last if at_last else 0
    logits = REFERENCE[name].astype(dtype)
    nudged = logits.copy()
    nudged[position, 1] = np.nextafter(logits[position, 1], dtype(100))
    table, positions = parity(make_run(tensors={name: logits}), [make_run("5.2.0/fixed", {name: nudged})])
    # The unit of 2 and 3 in float32 is 2**-22, of 8 2**-20; bfloat16 has 16 bits fewer.
    unit = 2.0 ** ((-20 if prompt else -22) + (0 if dtype is np.float32 else 16))
    rows = positions[positions["prompt"] == prompt]
    assert rows["bitwise_equal"].tolist() == [row != position for row in range(last + 1)]
    assert rows["max_abs_diff"].tolist() == [unit * (row == position) for row in range(last + 1)]
    assert table["bitwise_equal"].tolist() == [prompt == 1, prompt == 0]
    assert table["max_abs_diff"].tolist() == [unit * (prompt == 0), unit * (prompt == 1)]
    assert table["mean_abs_diff"][prompt] == pytest.approx(unit / 3 / (last + 1))
    said = (
        f"parts from the reference at the logits, position {position}, though no stage in both differs: {UNEXPLAINED}"
    )
    assert table["verdict"][prompt] == said
    assert table["verdict"][1 - prompt] == EQUAL


def test_minus_zero(compared):
    table, positions = compared(changed("0.logits", (0, 0), -0.0))
    assert positions["bitwise_equal"].tolist() == [False, True, True, True, True]
    assert table["bitwise_equal"].tolist() == [False, True]
    assert (table[["max_abs_diff", "mean_abs_diff", "max_kl", "rope_max_abs_diff"]] == 0).all(axis=None)
    assert table["top1_agreement"].tolist() == [1, 1]
    assert table["verdict"][0] == (
        f"parts from the reference at the logits, position 0, though no stage in both differs: {UNEXPLAINED}"
    )


@pytest.mark.parametrize("turned", [False, True])
def test_nan_on_one_side(make_run, turned):
    whole, broken = make_run(), make_run("5.2.0/fixed", changed("0.logits", (1, 2), NAN))
    reference, run = (broken, whole) if turned else (whole, broken)
    table, positions = parity(reference, [run])
    assert positions["bitwise_equal"].tolist() == [True, False, True, True, True]
    assert positions["top1_agreement"].tolist() == [True, False, True, True, True]
    assert table["top1_agreement"].tolist() == [pytest.approx(2 / 3), 1]
    for column, summary in [("max_abs_diff",) * 2, ("mean_abs_diff",) * 2, ("kl", "max_kl")]:
        np.testing.assert_array_equal(positions[column], [0, NAN, 0, 0, 0])
        np.testing.assert_array_equal(table[summary], [NAN, 0])
    assert table["verdict"].tolist() == [
        "parts from the reference at the logits, position 1, though no stage in both differs; the difference of the "
        f"logits is NaN, first at position 1: {UNEXPLAINED}",
        EQUAL,
    ]


@pytest.mark.parametrize("name", ["cos", "sin"])
def test_nan_in_rope_on_one_side(compared, name):
    table, positions = compared(changed(f"0.{name}", (1, 3), NAN))
    np.testing.assert_array_equal(positions[f"{name}_abs_diff"], [0, NAN, 0, 0, 0])
    np.testing.assert_array_equal(table["rope_max_abs_diff"], [NAN, 0])
    assert table["verdict"].tolist() == [
        f"parts from the reference at {name}, though the logits are equal: {UNEXPLAINED}",
        EQUAL,
    ]


def test_nan_and_infinity_on_both_sides(make_run):
    """The same bits differ by nothing, in logits, rope and inv_freq."""
    broken = {
        **changed("0.logits", (1, slice(0, 3)), [NAN, INF, -INF]),
        **changed("0.cos", (1, 3), NAN),
        **changed("0.sin", (2, 0), INF),
        **changed("0.inv_freq", 1, NAN),
    }
    table, positions = parity(make_run(tensors=broken), [make_run("5.2.0/fixed", broken)])
    differences = ["max_abs_diff", "mean_abs_diff", "kl", "cos_abs_diff", "sin_abs_diff"]
    assert (positions[differences] == 0).all(axis=None)
    assert (table[["max_abs_diff", "mean_abs_diff", "max_kl", "rope_max_abs_diff"]] == 0).all(axis=None)
    assert table["bitwise_equal"].all()
    assert table["inv_freq_equal"].all()
    assert table["top1_agreement"].tolist() == [1, 1]
    assert table["verdict"].tolist() == [EQUAL, EQUAL]


@pytest.mark.parametrize("position", [0, 1023, 1024, 1500, 2047, 2048, 2099])
def test_positions_beyond_the_first_piece(tmp_path, position):
    """Captures are read 1,024 positions at a time; each position's logits are its own."""
    logits = np.arange(2100, dtype=np.float32)[:, None] * [1, -1]
    short = {"0.token_ids": np.arange(2100), "0.cos": np.ones((2100, 2)), "0.sin": np.zeros((2100, 2))}
    reference = write(tmp_path / "a", {**short, "0.logits": logits}, ["long"])
    logits[position, 1] += 0.5
    frame = compare_positions(reference, write(tmp_path / "b", {**short, "0.logits": logits}, ["long"]), 0)
    assert frame["position"].tolist() == list(range(2100))
    assert np.flatnonzero(~frame["bitwise_equal"]).tolist() == [position]
    assert np.flatnonzero(frame["max_abs_diff"]).tolist() == [position]
    assert frame["max_abs_diff"][position] == 0.5


def test_cos_and_sin_exchanged(compared):
    table, positions = compared({"0.cos": REFERENCE["0.sin"], "0.sin": REFERENCE["0.cos"]})
    assert positions["cos_abs_diff"].tolist() == [1, 0.5, 1.25, 0, 0]
    assert positions["sin_abs_diff"].tolist() == [1, 0.5, 1.25, 0, 0]
    assert table["rope_max_abs_diff"].tolist() == [1.25, 0]
    assert table["verdict"].tolist() == [
        f"parts from the reference at cos and sin, though the logits are equal: {UNEXPLAINED}",
        EQUAL,
    ]


@pytest.mark.parametrize("name", ["cos", "sin"])
@pytest.mark.parametrize("index", [(0, 0), (2, 3)])
def test_one_rope_value(compared, name, index):
    table, positions = compared(changed(f"0.{name}", index, 3))
    apart = abs(3 - float(REFERENCE[f"0.{name}"][index]))
    assert positions[f"{name}_abs_diff"].tolist() == [apart * (row == index[0]) for row in range(5)]
    assert table["rope_max_abs_diff"].tolist() == [apart, 0]
    assert table["verdict"][0] == f"parts from the reference at {name}, though the logits are equal: {UNEXPLAINED}"


def test_minus_zero_in_rope(compared):
    """No distance, and yet not the same bits."""
    table, _ = compared(changed("0.sin", (0, 2), -0.0))
    assert table["rope_max_abs_diff"].tolist() == [0, 0]
    assert table["verdict"][0] == f"parts from the reference at sin, though the logits are equal: {UNEXPLAINED}"


@pytest.mark.parametrize("index", [0, 1])
def test_inv_freq_only(compared, index):
    table, _ = compared(changed("1.inv_freq", index, -56.34))
    assert table["inv_freq_equal"].tolist() == [True, False]
    held = ["[-56.3, 0.25, …]", "[1, -56.3, …]"][index]
    assert table["verdict"].tolist() == [
        EQUAL,
        f"parts from the reference at inv_freq, though the logits are equal: inv_freq holds {held} where "
        "[1, 0.25, …] belongs: the buffer was left as uninitialised memory after loading",
    ]


def test_inv_freq_that_prints_the_same(compared):
    """Nothing is said of uninitialised memory where the numbers shown don't show it."""
    table, _ = compared(changed("0.inv_freq", 1, np.nextafter(np.float32(0.25), np.float32(1))))
    assert table["inv_freq_equal"].tolist() == [False, True]
    assert table["verdict"][0] == (
        "parts from the reference at inv_freq, though the logits are equal: inv_freq has other bits than the "
        "reference's, though both print as [1, 0.25, …]"
    )


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        ({"settings": {"dtype": "float32", "device": "cuda:0"}}, "its device is cuda:0, the reference's cpu"),
        (
            {"settings": {"dtype": "float32", "device": "cpu", "attn_implementation": "eager"}},
            "its attn_implementation is eager, the reference's sdpa",
        ),
        ({"versions": {"transformers": "5.2.0", "torch": "2.12.0"}}, "its torch is 2.12.0, the reference's 2.13.0"),
    ],
)
def test_other_conditions_are_named(make_run, record, cause):
    settings = {"dtype": "float32", "device": "cpu", "attn_implementation": "sdpa"}
    versions = {"transformers": "4.48.0", "torch": "2.13.0"}
    reference = make_run(record={"settings": settings, "versions": versions})
    if "settings" in record:
        record = {"versions": versions, "settings": {**settings, **record["settings"]}}
    run = make_run("5.2.0/fixed", changed("0.logits", (0, 0), 9), {"settings": settings, **record})
    assert verdict(reference, run, 0).endswith(f": {cause}")
    same = make_run("5.3.0/fixed", {}, {"settings": settings, "versions": versions, **record})
    assert verdict(reference, same, 0) == EQUAL


def test_three_numbers_of_inv_freq_are_shown(make_run):
    longer = {"0.inv_freq": np.array([1, 0.5, 0.25, 0.125], np.float32)}
    garbage = {"0.inv_freq": np.array([0, NAN, 1 / 3, 0.125], np.float32)}
    assert verdict(make_run(tensors=longer), make_run("5.2.0/minimal", garbage), 0) == (
        "parts from the reference at inv_freq, though the logits are equal: inv_freq holds [0, nan, 0.333, …] where "
        "[1, 0.5, 0.25, …] belongs: the buffer was left as uninitialised memory after loading"
    )


def test_another_dtype(compared):
    """Zeros have the same bits in all dtypes, and still nothing is equal bit for bit."""
    zeros = {"1.logits": np.zeros((2, 3), ml_dtypes.bfloat16)}
    record = {"settings": {"dtype": "bfloat16"}}
    exact = {"0.logits": REFERENCE["0.logits"].astype(ml_dtypes.bfloat16)}  # the values are the same
    table, positions = compared({**exact, **zeros}, record)
    assert not table["bitwise_equal"].any()
    assert table["max_abs_diff"].tolist() == [0, 9]
    assert positions["max_abs_diff"].tolist() == [0, 0, 0, 9, 9]
    assert (
        table["verdict"].tolist()
        == [
            "parts from the reference at the logits, position 0, though no stage in both differs: "
            "its dtype is bfloat16, the reference's float32"
        ]
        * 2
    )


@pytest.mark.parametrize("dtypes", [(np.float32, np.float16), (np.float16, ml_dtypes.bfloat16)])
def test_zeros_of_another_dtype(make_run, dtypes):
    a, b = ({"0.logits": np.zeros((3, 3), dtype), "0.sin": np.zeros((3, 4), dtype)} for dtype in dtypes)
    table, _ = parity(make_run(tensors=a), [make_run("5.2.0/fixed", b)])
    assert table["bitwise_equal"].tolist() == [False, True]
    assert table["max_abs_diff"].tolist() == [0, 0]
    only_rope = {"0.sin": b["0.sin"]}
    assert verdict(make_run(tensors={"0.sin": a["0.sin"]}), make_run("5.3.0/fixed", only_rope), 0) == (
        f"parts from the reference at sin, though the logits are equal: {UNEXPLAINED}"
    )


def test_rounded_to_another_precision(make_run):
    """Equal after a cast to float16, or to bfloat16, is not equal."""
    finer = np.float32(1 + 2.0**-13)
    run = make_run("5.2.0/fixed", changed("0.logits", (1, 1), finer))
    frame = compare_positions(make_run().capture, run.capture, 0)
    assert frame["bitwise_equal"].tolist() == [True, False, True]
    assert frame["max_abs_diff"].tolist() == [0, 2.0**-13, 0]


# Where runs part


@pytest.mark.parametrize(
    ("stage", "position", "words"),
    [
        (0, 0, "the token embedding, position 0"),
        (0, 2, "the token embedding, position 2"),
        (2, 1, "layer 0, keys after RoPE, position 1"),
        (3, 2, "the logits, position 2"),
    ],
)
def test_a_stage_differs_and_the_logits_do_not(make_run, stage, position, words):
    reference = make_run()
    run = make_run("5.2.0/fixed", changed("0.fingerprints", (stage, position), -1))
    assert first_divergence(reference.capture, run.capture, 0) == (STAGES[stage], position)
    assert first_divergence(reference.capture, run.capture, 1) is None
    table, _ = parity(reference, [run])
    assert table["bitwise_equal"].all()
    assert table["verdict"].tolist() == [
        f"parts from the reference at {words}, though the logits are equal: {UNEXPLAINED}",
        EQUAL,
    ]


def test_the_second_prompt_alone(compared):
    table, _ = compared({**changed("1.logits", (1, 0), 1), **changed("1.fingerprints", (3, 1), -1)})
    assert table["bitwise_equal"].tolist() == [True, False]
    assert table["max_abs_diff"].tolist() == [0, 8]
    assert table["verdict"].tolist() == [
        EQUAL,
        f"parts from the reference at the logits, position 1: {UNEXPLAINED}",
    ]


def test_stages_come_in_the_references_order_and_before_positions(make_run):
    """Keys differ at position 2 and the logits at position 0: keys are computed earlier."""
    reference = make_run()
    fingerprints = REFERENCE["0.fingerprints"].copy()
    fingerprints[2, 2] = fingerprints[3, 0] = -1
    run = make_run("5.2.0/fixed", {"0.fingerprints": fingerprints})
    assert first_divergence(reference.capture, run.capture, 0) == ("model.layers.0.self_attn.k_rope", 2)
    turned = {f"{prompt}.fingerprints": REFERENCE[f"{prompt}.fingerprints"][::-1] for prompt in (0, 1)}
    turned["0.fingerprints"] = fingerprints[::-1]
    other_way = make_run("5.3.0/fixed", turned, stages=STAGES[::-1])
    assert first_divergence(reference.capture, other_way.capture, 0) == ("model.layers.0.self_attn.k_rope", 2)
    assert verdict(reference, other_way, 1) == EQUAL


def without_last_stage(**more):
    return {f"{prompt}.fingerprints": REFERENCE[f"{prompt}.fingerprints"][:3] for prompt in (0, 1)} | more


def test_a_stage_that_the_run_lacks(compared):
    table, _ = compared(without_last_stage(), stages=STAGES[:3])
    assert table["bitwise_equal"].all()
    said = "has the reference's logits, and no stage in both differs; 3 of 4 stages are in both"
    assert table["verdict"].tolist() == [said, said]


def test_a_stage_that_the_reference_lacks(make_run):
    reference = make_run(tensors=without_last_stage(), stages=STAGES[:3])
    run = make_run("5.2.0/fixed", changed("0.logits", (2, 0), 0))
    assert verdict(reference, run, 0) == (
        "parts from the reference at the logits, position 2, though no stage in both differs; 3 of 4 stages are in "
        f"both: {UNEXPLAINED}"
    )
    assert verdict(reference, run, 1) == (
        "has the reference's logits, and no stage in both differs; 3 of 4 stages are in both"
    )


def test_no_stage_in_common(compared):
    others = [f"transformer.{stage}" for stage in STAGES]
    table, _ = compared({**changed("0.logits", (1, 0), 0), "1.fingerprints": np.zeros((4, 2), int)}, stages=others)
    assert table["verdict"].tolist() == [
        "parts from the reference at the logits, position 1, though no stage in both differs; 0 of 8 stages are in "
        f"both: {UNEXPLAINED}",
        "has the reference's logits, and no stage in both differs; 0 of 8 stages are in both",
    ]


def test_several_things_at_once(make_run):
    run = make_run(
        "5.0.0/minimal",
        {
            **changed("0.logits", (2, 1), NAN),
            **changed("0.inv_freq", 0, 0),
            "0.fingerprints": np.full((2, 3), -1),
            "1.fingerprints": REFERENCE["1.fingerprints"][:2],
        },
        {"weights": {"tensors": 3, "differing": ["lm_head.weight"]}, "settings": {"dtype": "float16"}},
        stages=STAGES[:2],
    )
    assert difference(make_run(), run, 0) == (
        "parts from the reference at the token embedding, position 0; 2 of 4 stages are in both; "
        "the difference of the logits is NaN, first at position 2: "
        "1 of 3 tensors differ from the checkpoint: the model's own _init_weights overwrote them after loading; "
        "inv_freq holds [0, 0.25, …] where [1, 0.25, …] belongs: "
        "the buffer was left as uninitialised memory after loading; its dtype is float16, the reference's float32"
    )
    assert difference(make_run(), run, 1) == (
        "has the reference's logits, and no stage in both differs; 2 of 4 stages are in both"
    )


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("model.embed_tokens", "the token embedding"),
        ("model.layers.0.input_layernorm", "layer 0, the normed input"),
        ("model.layers.11.self_attn.q_proj", "layer 11, queries"),
        ("model.layers.1.self_attn.k_proj", "layer 1, keys"),
        ("model.layers.1.self_attn.v_proj", "layer 1, values"),
        ("model.layers.1.self_attn.q_rope", "layer 1, queries after RoPE"),
        ("model.layers.1.self_attn.k_rope", "layer 1, keys after RoPE"),
        ("model.layers.1.self_attn", "layer 1, the attention output"),
        ("model.layers.1.mlp", "layer 1, the MLP output"),
        ("model.layers.1.mlp.gate_proj", "layer 1, the MLP gate"),
        ("model.layers.0", "layer 0, the layer's output"),
        ("model.layers.1.mlp.experts.7.up_proj", "layer 1, the MLP up projection"),
        ("model.layers.1.mlp.experts.7", "layer 1, 7"),
        ("model.norm", "the final norm"),
        ("model.other", "other"),
        ("lm_head", "the logits"),
    ],
)
def test_stages_in_words(stage, words):
    assert describe_stage(stage) == words


# What can't be compared


def refusal(function, *args):
    with pytest.raises(OpensciError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prompts", "count"),
    [
        (PROMPTS[:1], 1),
        ([*PROMPTS, "More"], 3),
        ([], 0),
        (["The capital of Spain is", "Hello"], 2),
        (PROMPTS[::-1], 2),
    ],
)
def test_other_prompts(make_run, prompts, count):
    reference, run = make_run(), make_run("5.2.0/fixed", prompts=prompts)
    said = (
        f"{run.path}/capture.safetensors holds other prompts than {reference.path}/capture.safetensors "
        f"({count} and 2): run both on the same prompts, in the same order."
    )
    assert refusal(parity, reference, [reference, run]) == said
    assert refusal(verdict, reference, run, 0) == said
    assert refusal(difference, reference, run, 0) == said
    assert refusal(compare_positions, reference.capture, run.capture, 0) == said


@pytest.mark.parametrize("ids", [[5, 6, 99], [5, 6], [5, 6, 7, 8]])
def test_other_tokens(make_run, ids):
    reference, run = make_run(), make_run("5.2.0/fixed", {"0.token_ids": np.array(ids)})
    assert refusal(verdict, reference, run, 0) == (
        f"{reference.path}/capture.safetensors and {run.path}/capture.safetensors hold different token ids for "
        "prompt 0: compare runs of the same prompts under the same tokenizer."
    )
    assert verdict(reference, run, 1) == EQUAL


@pytest.mark.parametrize(
    ("name", "shape", "right"),
    [
        ("0.logits", (3, 1), (3, 3)),
        ("0.logits", (3, 4), (3, 3)),
        ("0.cos", (3, 1), (3, 4)),
        ("0.sin", (3, 6), (3, 4)),
        ("0.inv_freq", (1,), (2,)),
    ],
)
def test_models_of_another_shape(make_run, name, shape, right):
    reference, run = make_run(), make_run("5.2.0/fixed", {name: np.ones(shape, np.float32)})
    assert refusal(parity, reference, [run]) == (
        f"{name} is of shape {right} in {reference.path}/capture.safetensors and {shape} in "
        f"{run.path}/capture.safetensors: compare runs of the same model."
    )


def test_nothing_to_compare(make_run):
    reference, empty = make_run(), make_run("5.2.0/fixed", prompts=[])
    said = "There is nothing to compare with {}: name runs, and give them prompts."
    assert refusal(parity, reference, []) == said.format(reference.path)
    assert refusal(parity, empty, [empty]) == said.format(empty.path)


# Runs that were compared as they were computed, and keep no logits


@pytest.fixture
def make_compact(make_run):
    """Return a function that writes a run as compared with `reference`, by numbers that no logits would give."""

    def make(name, reference, **options):
        tensors = {key: array for key, array in REFERENCE.items() if "logits" not in key}
        for prompt, count in enumerate((3, 2)):
            made_up = {
                "bitwise_equal": np.arange(count) != prompt,
                "max_abs_diff": np.arange(count) + 0.5,
                "mean_abs_diff": np.arange(count) + 0.25,
                "kl": np.arange(count) + 0.125,
                "top1_agreement": np.arange(count) == prompt,
            }
            assert set(made_up) == set(COMPARED)
            tensors |= {f"{prompt}.{key}": array for key, array in made_up.items()}
        run = make_run(name)
        write(run.path, tensors, reference=reference and reference.capture.digest)
        return Run(run.path)

    return make


def test_compared_on_the_way(make_run, make_compact):
    reference = make_run()
    table, positions = parity(reference, [make_compact("5.2.0/fixed", reference)])
    assert positions["bitwise_equal"].tolist() == [False, True, True, True, False]
    assert positions["max_abs_diff"].tolist() == [0.5, 1.5, 2.5, 0.5, 1.5]
    assert positions["mean_abs_diff"].tolist() == [0.25, 1.25, 2.25, 0.25, 1.25]
    assert positions["kl"].tolist() == [0.125, 1.125, 2.125, 0.125, 1.125]
    assert positions["top1_agreement"].tolist() == [True, False, False, False, True]
    assert table["max_abs_diff"].tolist() == [2.5, 1.5]
    assert table["mean_abs_diff"].tolist() == [1.25, 0.75]
    assert table["max_kl"].tolist() == [2.125, 1.125]
    assert table["top1_agreement"].tolist() == [pytest.approx(1 / 3), 0.5]
    said = "parts from the reference at the logits, position {}, though no stage in both differs: " + UNEXPLAINED
    assert table["verdict"].tolist() == [said.format(0), said.format(1)]


def test_compared_with_another_reference(make_run, make_compact):
    reference, other = make_run(), make_run("4.49.0/original", changed("1.fingerprints", (3, 1), -1))
    compact, kept = make_compact("5.2.0/fixed", other), make_run("5.3.0/fixed")
    for right, run in [(reference, compact), (compact, kept), (compact, compact)]:
        assert refusal(parity, right, [run]) == (
            f"{run.path}/capture.safetensors was not compared with {right.path}/capture.safetensors as it was "
            "computed, and not both keep their logits: run it again with that reference, or both with their logits "
            "kept."
        )


# Runs on disk


def test_runs_come_in_the_order_of_releases_as_numbers(make_run, tmp_path):
    names = ["4.48.0/original", "4.48.0/fixed", "4.48.10/fixed", "5.2.0/minimal", "5.2.0/fixed", "5.10.4/fixed"]
    for name in sorted(names, key=lambda name: name[::-1]):
        make_run(name)
    (tmp_path / "5.23.0" / "fixed").mkdir(parents=True)  # begun, without a record
    assert [f"{run.tf_version}/{run.variant}" for run in find_runs(tmp_path)] == names
    assert [str(run.path.relative_to(tmp_path)) for run in find_runs(str(tmp_path))] == names
    assert find_runs(tmp_path / "5.23.0") == []


# A sentence never says more than the table


VALUES = [0.0, -0.0, 1.0, -2.5, 3.0, NAN, INF, -INF]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@st.composite
def pairs(draw):
    """Return the shape and the tensors of a run, and the few things in which another one differs."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    vocabulary = draw(st.integers(1, 3))
    value = st.one_of(st.just(1.0), st.sampled_from(VALUES))

    def array(*shape):
        count = math.prod(shape)
        return np.array(draw(st.lists(value, min_size=count, max_size=count))).reshape(shape)

    tensors = {}
    for prompt, length in enumerate(lengths):
        tensors[f"{prompt}.logits"] = array(length, vocabulary)
        tensors[f"{prompt}.cos"], tensors[f"{prompt}.sin"] = array(length, 2), array(length, 2)
        tensors[f"{prompt}.inv_freq"] = array(1)
        tensors[f"{prompt}.fingerprints"] = np.arange(3 * length).reshape(3, length)
    other = {name: array.copy() for name, array in tensors.items()}
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(other)))
        at = draw(st.integers(0, other[name].size - 1))
        other[name].flat[at] = draw(st.integers(0, 9) if "fingerprints" in name else st.sampled_from(VALUES))
    stages = draw(st.permutations(STAGES[:3]))
    renamed = draw(st.one_of(st.just(0), st.integers(0, 3)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    other_dtype = draw(st.one_of(st.just(dtype), st.sampled_from(sorted(DTYPES))))
    differing = draw(st.sampled_from([[], [], ["lm_head.weight"]]))
    return (tensors, stages, dtype), (other, stages[renamed:] + ["x", "y", "z"][:renamed], other_dtype), differing


def random_run(folder, tensors, stages, dtype, differing):
    cast = {
        name: array if "fingerprints" in name else array.astype(np.float32 if "inv_freq" in name else DTYPES[dtype])
        for name, array in tensors.items()
    }
    prompts = [name for name in tensors if name.endswith("logits")]
    ids = {f"{i}.token_ids": np.arange(len(tensors[name])) for i, name in enumerate(prompts)}
    write(folder, {**ids, **cast}, prompts, list(stages))
    record = {
        "variant": "fixed",
        "versions": {"transformers": folder.name},
        **RECORD,
        "settings": {"dtype": dtype},
        "weights": {"tensors": 74, "differing": differing},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return Run(folder), cast


def all_bits(tensors, stages, prompt):
    """Return all bytes of a prompt, each under the name of its tensor or stage."""
    found = {
        name: (array.dtype, array.tobytes())
        for name, array in tensors.items()
        if name.startswith(f"{prompt}.") and "fingerprints" not in name
    }
    return found | {
        stage: row.tobytes() for stage, row in zip(stages, tensors[f"{prompt}.fingerprints"], strict=True)
    }


def same(x, y):
    """Whether two scalars, of any dtype, have the same bits."""
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()


def distance(x, y):
    if same(x, y) or float(x) == float(y):
        return 0.0
    return NAN if math.isnan(x) or math.isnan(y) else abs(float(x) - float(y))


def divergence(a, b):
    """The Kullback-Leibler divergence of two rows that are not the same, element by element."""
    if any(math.isnan(x) or x == INF for x in [*a, *b]) or max(a) == -INF or max(b) == -INF:
        return NAN
    total = 0.0
    log_z = [max(row) + math.log(math.fsum(math.exp(x - max(row)) for x in row)) for row in (a, b)]
    for x, y in zip(a, b, strict=True):
        if x > -INF:
            total += math.exp(x - log_z[0]) * ((x - log_z[0]) - (y - log_z[1]))
    return total


def agree(a, b):
    whole = not any(math.isnan(x) for x in [*a, *b])
    return whole and a.index(max(a)) == b.index(max(b))


def largest(values):
    """The maximum, or NaN where there is one."""
    return NAN if any(map(math.isnan, values)) else max(values)


def mean(values):
    return sum(values) / len(values)


@given(pairs())
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_sentence_never_says_more_than_the_table(tmp_path, pair):
    (ours, our_stages, our_dtype), (theirs, their_stages, their_dtype), differing = pair
    reference, ours = random_run(tmp_path / "4.48.0", ours, our_stages, our_dtype, [])
    run, theirs = random_run(tmp_path / "5.2.0", theirs, their_stages, their_dtype, differing)
    table, positions = parity(reference, [run])
    for prompt, row in enumerate(table.to_dict("records")):
        rows = list(zip(ours[f"{prompt}.logits"], theirs[f"{prompt}.logits"], strict=True))
        bitwise = [all(map(same, a, b)) for a, b in rows]
        distances = [list(map(distance, a, b)) for a, b in rows]
        kls, tops = [], []
        for (a, b), equal in zip(rows, bitwise, strict=True):
            floats = [float(x) for x in a], [float(x) for x in b]
            kls.append(0.0 if equal else divergence(*floats))
            tops.append(equal or agree(*floats))
        rope = {
            name: [
                largest([distance(x, y) for x, y in zip(a, b, strict=True)])
                for a, b in zip(ours[f"{prompt}.{name}"], theirs[f"{prompt}.{name}"], strict=True)
            ]
            for name in ("cos", "sin")
        }
        frame = positions[positions["prompt"] == prompt]
        expected = {
            "bitwise_equal": bitwise,
            "max_abs_diff": [largest(d) for d in distances],
            "mean_abs_diff": [mean(d) for d in distances],
            "kl": kls,
            "top1_agreement": tops,
            "cos_abs_diff": rope["cos"],
            "sin_abs_diff": rope["sin"],
        }
        for name, values in expected.items():
            np.testing.assert_allclose(frame[name].astype(float), values, rtol=1e-9, atol=1e-12, err_msg=name)
        inv_freq_equal = all(map(same, ours[f"{prompt}.inv_freq"], theirs[f"{prompt}.inv_freq"]))
        summary = {
            "positions": len(rows),
            "max_abs_diff": largest(expected["max_abs_diff"]),
            "mean_abs_diff": mean(expected["mean_abs_diff"]),
            "max_kl": largest(kls),
            "bitwise_equal": all(bitwise),
            "top1_agreement": mean(tops),
            "rope_max_abs_diff": largest(rope["cos"] + rope["sin"]),
            "inv_freq_equal": inv_freq_equal,
        }
        for name, value in summary.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-9, atol=1e-12, err_msg=name)

        said, equal = row["verdict"], all_bits(ours, our_stages, prompt) == all_bits(theirs, their_stages, prompt)
        assert (said == EQUAL) == equal
        assert (difference(reference, run, prompt) is None) == equal
        assert ("though the logits are equal" in said or "has the reference's logits" in said) == (
            all(bitwise) and not equal
        )
        assert ("NaN" in said) == math.isnan(summary["max_abs_diff"])
        assert ("stages are in both" in said) == (set(our_stages) != set(their_stages))
        assert ("weights and inv_freq are right" not in said) or (inv_freq_equal and not differing)
        assert ("uninitialised" not in said and "other bits" not in said) or not inv_freq_equal
        assert (f"its dtype is {their_dtype}, the reference's {our_dtype}" in said) == (our_dtype != their_dtype)
        assert ("tensors differ from the checkpoint" in said) == (
            bool(differing) and said != EQUAL and not said.startswith("has")
        )
