"""What a figure says of the data: each sentence by value, and each of its claims false in turn."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensci_lib.reports import findings
from opensci_lib.runs import ascending
from opensci_lib.runs.variants import in_order
from tests.hand_made import STAGES, make_run, tensors

NAN, INF = float("nan"), float("inf")


def frame(columns, *rows):
    return pd.DataFrame(rows, columns=columns.split())


def parity(*rows):
    """Return rows of `parity.csv`: release, variant, prompt, bitwise_equal, max_abs_diff."""
    return frame("tf_version variant prompt bitwise_equal max_abs_diff", *rows)


# Numbers and orders


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (0.0004, "0.0004"),
        (12.3456, "12.3"),
        (-12345.6, "-12346"),
        (1e6, "1e+06"),
        (1e-45, "1e-45"),
        (NAN, "NaN"),
        (INF, "inf"),
        (-0.25, "-0.25"),
    ],
)  # fmt: skip
def test_a_number_that_is_not_0_never_prints_as_0(value, written):
    assert findings.number(value) == written


def test_numbers_have_as_many_digits_as_are_asked_for():
    assert findings.number(12.3456, 5) == "12.346"


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (0.0, "0 %"),
        (0.6, "60 %"),
        (2 / 3, "66.7 %"),
        (0.99999, "99.999 %"),
        (1.0, "100 %"),
        (4e-7, "4e-05 %"),
        (NAN, "NaN %"),
    ],
)
def test_a_part_never_prints_as_the_whole(share, written):
    assert findings.percent(share) == written


@pytest.mark.parametrize(
    ("releases", "said"),
    [
        (["5.9.0"], "5.9.0"),
        (["5.10.4", "5.9.0"], "5.9.0 to 5.10.4"),
        (["5.9.0", "4.48.0"], "4.48.0, 5.9.0"),
        (["5.11.0", "4.48.0", "5.9.0", "5.2.0"], "4.48.0 to 5.9.0, 5.11.0"),
        ([], ""),
    ],
)
def test_neighbouring_releases_are_a_span(releases, said):
    assert findings.spans(releases, ["5.11.0", "5.9.0", "5.2.0", "4.48.0", "5.10.4", "5.9.0"]) == said


@given(st.floats(allow_nan=False))
def test_only_0_prints_as_0(value):
    assert (float(findings.number(value)) == 0) == (value == 0)


def test_releases_ascend_by_number_each_once():
    assert ascending(["5.10.4", "5.9.0", "4.48.0", "5.9.0", "5.10.0"]) == [
        "4.48.0", "5.9.0", "5.10.0", "5.10.4",
    ]  # fmt: skip


def test_variants_come_in_the_order_of_their_making():
    assert in_order(["fixed", "minimal", "original", "minimal"]) == ["original", "minimal", "fixed"]
    assert in_order(["fixed"]) == ["fixed"]


def test_runs_come_by_release_and_then_by_variant():
    table = frame(
        "variant tf_version",
        ("fixed", "5.10.4"), ("minimal", "5.9.0"), ("fixed", "5.9.0"), ("original", "4.48.0"), ("minimal", "5.9.0"),
    )  # fmt: skip
    assert findings.runs_in_order(table) == [
        ("4.48.0", "original"), ("5.9.0", "minimal"), ("5.9.0", "fixed"), ("5.10.4", "fixed"),
    ]  # fmt: skip


# Logits

PARITY = parity(
    ("5.10.4", "fixed", 0, True, 0.0),
    ("5.10.4", "fixed", 1, False, 0.5),
    ("5.9.0", "minimal", 0, False, 0.25),
    ("5.9.0", "minimal", 1, False, NAN),
    ("5.9.0", "fixed", 0, True, 0.0),
    ("5.9.0", "fixed", 1, True, 0.0),
    ("4.48.0", "original", 0, True, 0.0),
    ("4.48.0", "original", 1, True, 0.0),
)


def test_a_run_is_equal_on_every_prompt_and_as_far_off_as_its_worst():
    runs = findings.parity_by_run(PARITY)
    assert list(runs.columns) == ["variant", "tf_version", "equal", "max_abs_diff", "failed"]
    rows = {(row.tf_version, row.variant): (row.equal, str(row.max_abs_diff)) for row in runs.itertuples()}
    assert rows == {
        ("4.48.0", "original"): (True, "0.0"),
        ("5.9.0", "minimal"): (False, "nan"),
        ("5.9.0", "fixed"): (True, "0.0"),
        ("5.10.4", "fixed"): (False, "0.5"),
    }


def test_whether_a_run_is_equal_must_be_known():
    unknown = parity(("5.9.0", "fixed", 0, True, 0.0), ("5.9.0", "fixed", 1, None, NAN))
    assert findings.parity_by_run(unknown)["equal"].tolist() == [False]


@pytest.mark.parametrize(
    ("equal", "difference", "said"),
    [
        (True, 0.0, "equal"),
        (False, 0.0004, "off by 0.0004"),
        (False, 12.345, "off by 12.3"),
        (False, NAN, "off by NaN"),
        (False, INF, "off by inf"),
        (False, 0.0, "off by the sign of a 0"),
    ],
)
def test_a_cell_says_equal_only_of_equal_bits(equal, difference, said):
    assert findings.parity_cell(equal, difference) == said


def test_releases_are_counted_not_rows():
    assert findings.equal_releases(PARITY) == (
        "Releases whose logits are the reference's, bit for bit: original 1 of 1, minimal 0 of 1, fixed 1 of 2"
    )


def test_a_release_that_did_not_run_is_not_counted():
    assert findings.equal_releases(PARITY[PARITY["tf_version"] == "5.10.4"]) == (
        "Releases whose logits are the reference's, bit for bit: fixed 0 of 1"
    )


def test_the_verdict_is_one_line():
    rows = [(f"5.{minor}.0", "fixed", 0, True, 0.0) for minor in range(3)]
    said = "The fixed folder computes the same logits on all 3 releases, bit for bit"
    assert findings.parity_verdict(parity(*rows)) == f"{said}."
    rows += [
        ("4.48.0", "original", 0, True, 0.0),
        ("5.0.0", "minimal", 0, True, 0.0),
        ("5.1.0", "minimal", 0, False, 8.0),
    ]
    assert findings.parity_verdict(parity(*rows)) == f"{said}; minimal differs on 1 of 2."
    rows[0] = ("5.0.0", "fixed", 0, False, NAN)
    assert findings.parity_verdict(parity(*rows)) == (
        "The fixed folder computes the same logits on 2 of 3 releases, bit for bit; minimal differs on 1 of 2."
    )


def test_a_family_counts_checkpoints_and_their_runs():
    first, second = (PARITY.assign(model="org--large", revision=revision) for revision in ("2000", "4000"))
    third = PARITY[PARITY["tf_version"] != "5.10.4"].assign(model="org--small", revision="2000")
    both = pd.concat([first, second, third])
    assert findings.equal_checkpoints(both) == (
        "3 checkpoints; runs with their reference's logits, bit for bit: "
        "original 3 of 3, minimal 0 of 3, fixed 3 of 5"
    )
    runs = findings.parity_by_run(both)
    assert list(runs.columns) == ["model", "revision", "variant", "tf_version", "equal", "max_abs_diff", "failed"]
    assert len(runs) == 11


def test_a_checkpoint_is_as_far_off_as_its_worst_run():
    table = PARITY.assign(model="org--small", revision="", top1_agreement=[1, 0.75, 1, 1, 0.5, 1, 1, NAN])
    found = findings.parity_by_checkpoint(table)
    assert list(found.columns) == [
        "model", "revision", "variant", "releases", "bitwise_equal", "max_abs_diff", "top1_agreement",
    ]  # fmt: skip
    assert found.astype(object).where(found.notna(), None).to_numpy().tolist() == [
        ["org--small", "", "fixed", 2, False, 0.5, 0.5],
        ["org--small", "", "minimal", 1, False, None, 1.0],
        ["org--small", "", "original", 1, True, 0.0, None],
    ]
    two = pd.concat([table, table.assign(revision="2000"), table.assign(model="org--large")])
    assert len(findings.parity_by_checkpoint(two)) == 9
    assert list(dict.fromkeys(findings.parity_by_checkpoint(two)["model"])) == ["org--small", "org--large"]


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"minimal": [(False, 0.25), (False, 12.345)]}, "minimal 12.3"),
        ({"minimal": [(True, 0.0), (False, 0.0004)]}, "minimal 0.0004"),
        ({"minimal": [(False, NAN), (False, 3.0)]}, "minimal NaN"),
        ({"minimal": [(False, 3.0), (False, NAN)]}, "minimal NaN"),
        ({"minimal": [(True, 0.0), (False, 0.0)]}, "minimal the sign of a 0"),
        ({"minimal": [(True, 0.0), (None, 0.0)]}, "minimal the sign of a 0"),
        ({"fixed": [(True, 0.0), (True, 0.0)]}, "fixed 0"),
        ({"fixed": [(True, 0.0)], "minimal": [(False, INF)]}, "minimal inf, fixed 0"),
        ({"minimal": [(True, 0.0)], "original": [(False, 2.0)]}, "original 2, minimal 0"),
    ],
)
def test_the_largest_logit_difference_is_each_variants_own(variants, said):
    rows = [(variant, *row) for variant, rows in variants.items() for row in rows]
    positions = frame("variant bitwise_equal max_abs_diff", *rows)
    assert findings.largest_logit_difference(positions) == f"Largest logit difference: {said}"


# The rotary embedding


def test_cosines_are_compared_at_every_position_of_one_prompt(tmp_path):
    first = {"cos": np.array([[1.0, 0.5], [0.25, 0.0]], np.float32)}
    second = {"cos": np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)}
    other = {"cos": np.array([[1.0, 0.75], [-0.75, NAN]], np.float32)}
    reference, run = (
        make_run(tmp_path / "a", prompts=(first, second)),
        make_run(tmp_path / "b", prompts=(other, other)),
    )
    found = findings.cosine_difference(reference.capture, run.capture, 0)
    assert found.dtype == np.float64
    assert np.array_equal(found, [[0.0, 0.25], [1.0, NAN]], equal_nan=True)
    found = findings.cosine_difference(reference.capture, run.capture, 1)
    assert np.array_equal(found, [[0.0, 0.25], [1.75, NAN]], equal_nan=True)


def test_the_largest_cosine_difference_is_over_all_runs_of_a_variant():
    begun = "Cosines of the rotary embedding, largest difference from the reference: "
    differences = {
        ("5.2.0", "fixed"): np.zeros((2, 2)),
        ("5.2.0", "minimal"): np.array([[0.0, 1.875], [0.0, 0.0]]),
        ("5.9.0", "minimal"): np.array([[0.0, 0.5], [0.0, 0.0]]),
        ("5.9.0", "fixed"): np.array([[0.0, 0.0], [1e-7, 0.0]]),
    }
    assert findings.largest_cosine_difference(differences) == f"{begun}minimal 1.88, fixed 1e-07"
    for release in ("5.2.0", "5.9.0"):
        differences[release, "fixed"] = np.array([[NAN, 0.5]])
        assert findings.largest_cosine_difference(differences) == f"{begun}minimal 1.88, fixed NaN"
        differences[release, "fixed"] = np.zeros((1, 2))
    assert findings.largest_cosine_difference(differences) == f"{begun}minimal 1.88, fixed 0"


@pytest.mark.parametrize(
    ("inv_freq", "said"),
    [
        ([0.25, 1.0, 0.0001], "inv_freq runs from 1 to 0.0001 radians a token"),
        ([-56.3, 1e12], "inv_freq runs from 1e+12 to -56.3 radians a token"),
        ([1.0, NAN, 0.5], "inv_freq runs from NaN to NaN radians a token"),
    ],
)
def test_inv_freq_runs_from_fast_to_slow(inv_freq, said):
    assert findings.inv_freq_range(np.array(inv_freq, np.float32)) == said


# Where runs part


def changed(stage, position, prompt_positions=3):
    fingerprints = tensors(prompt_positions)["fingerprints"].copy()
    fingerprints[stage, position] = -1
    return {"fingerprints": fingerprints}


def test_stages_are_compared_at_each_position(tmp_path):
    reference = make_run(tmp_path, prompts=({}, {}))
    run = make_run(tmp_path, "5.2.0", "minimal", prompts=({}, changed(1, 2)))
    assert not findings.stage_differences(reference.capture, run.capture, 0).any(axis=None)
    found = findings.stage_differences(reference.capture, run.capture, 1)
    assert list(found.index) == STAGES
    assert found.to_numpy().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert findings.differing_stages(found) == "1 of 12 stage outputs differ from the reference"


def test_fingerprints_are_compared_to_the_last_of_their_64_bits(tmp_path):
    large = np.full((4, 3), 2**62)
    near = large.copy()
    near[3, 0] += 1
    reference = make_run(tmp_path, prompts=({"fingerprints": large},))
    run = make_run(tmp_path, "5.2.0", "fixed", prompts=({"fingerprints": near},))
    assert findings.stage_differences(reference.capture, run.capture, 0).to_numpy().sum() == 1


def test_stages_are_paired_by_name(tmp_path):
    """The run computes one stage less, one of its own, and the others in another order."""
    theirs = ["lm_head", "model.embed_tokens", "model.norm", "model.layers.0.self_attn"]
    ours = tensors()["fingerprints"]
    rows = np.stack([ours[3], ours[0], [7, 7, 7], ours[2] + [0, 1, 0]])
    reference = make_run(tmp_path)
    run = make_run(tmp_path, "5.2.0", "fixed", prompts=({"fingerprints": rows},), stages=theirs)
    found = findings.stage_differences(reference.capture, run.capture, 0)
    assert list(found.index) == [*STAGES, "model.norm"]
    expected = [[0, 0, 0], [NAN] * 3, [0, 1, 0], [0, 0, 0], [NAN] * 3]
    assert np.array_equal(found.to_numpy(), expected, equal_nan=True)
    said = "1 of 9 stage outputs differ from the reference; 2 stages are not in both"
    assert findings.differing_stages(found) == said


def test_a_layer_is_one_row_unless_the_runs_first_part_in_it(tmp_path):
    stages = [
        "model.embed_tokens", "model.layers.0.mlp", "model.layers.0", "model.layers.1.mlp", "model.layers.1",
        "model.layers.10.mlp", "model.layers.10", "model.norm",
    ]  # fmt: skip
    differences = pd.DataFrame(
        [[0, 0], [0, 0], [0, NAN], [0, 1], [1, 1], [0, 1], [1, 0], [NAN, NAN]], index=stages, dtype=float
    )
    rows = findings.by_layer(differences)
    assert list(rows.index) == [
        "the token embedding", "layer 0", "layer 1, the MLP output", "layer 1, the layer's output", "layer 10",
        "the final norm",
    ]  # fmt: skip
    np.testing.assert_array_equal(rows, [[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [NAN, NAN]])
    shut = findings.by_layer(differences.iloc[:3])  # nothing differs, so that nothing is opened
    assert list(shut.index) == ["the token embedding", "layer 0"]


def test_runs_that_part_alike_are_drawn_once(tmp_path):
    """The last of three stands apart, and what does not part is left out."""
    reference = make_run(tmp_path, prompts=({}, {}))
    runs = [make_run(tmp_path, f"5.{minor}.0", "minimal", prompts=({}, changed(2, 1))) for minor in (0, 1)]
    runs += [make_run(tmp_path, "5.2.0", "minimal", prompts=({}, changed(0, 0)))]
    runs += [make_run(tmp_path, "5.0.0", "fixed", prompts=({}, {}))]
    found = findings.divergences(reference, runs, 1)
    assert list(found) == ["minimal on 5.0.0 to 5.1.0", "minimal on 5.2.0"]
    assert [differences.to_numpy().sum() for differences in found.values()] == [1, 1]
    assert found["minimal on 5.0.0 to 5.1.0"].loc[STAGES[2]].tolist() == [0, 1, 0]
    assert findings.divergences(reference, runs, 0) == {}


def test_runs_without_a_stage_in_common_are_not_called_equal(tmp_path):
    reference = make_run(tmp_path)
    run = make_run(tmp_path, "5.2.0", "fixed", stages=[f"model.{stage}" for stage in STAGES])
    found = findings.stage_differences(reference.capture, run.capture, 0)
    said = "0 of 0 stage outputs differ from the reference; 8 stages are not in both"
    assert findings.differing_stages(found) == said


def test_shares_are_counts_that_never_round_to_all_or_none():
    cells = pd.DataFrame(np.ones((40, 25)))
    cells.iloc[39, 24] = 0.0
    assert findings.differing_stages(cells) == "999 of 1000 stage outputs differ from the reference"
    assert findings.differing_stages(1 - cells) == "1 of 1000 stage outputs differ from the reference"


def test_the_first_difference_stands_beside_what_the_logits_say(tmp_path):
    reference = make_run(tmp_path, prompts=({}, {}))
    early = changed(0, 0)
    runs = [
        reference,
        make_run(tmp_path, "5.2.0", "minimal", prompts=(early, changed(2, 1))),
        make_run(tmp_path, "5.2.0", "fixed", prompts=(early, {})),
        make_run(tmp_path, "5.9.0", "fixed", prompts=({}, {}), stages=[*STAGES[:3], "model.lm_head"]),
    ]
    table = parity(
        ("5.2.0", "fixed", 0, True, 0.0), ("5.2.0", "fixed", 1, False, 1.0),  # no stage differs, and yet
        ("4.48.0", "original", 0, False, 1.0), ("4.48.0", "original", 1, True, 0.0),
        ("5.2.0", "minimal", 0, True, 0.0), ("5.2.0", "minimal", 1, False, 1.0),
        ("5.9.0", "fixed", 0, False, 1.0), ("5.9.0", "fixed", 1, True, 0.0),
    )  # fmt: skip
    found = findings.first_differences(reference, runs, table, 1)
    assert list(found.columns) == [
        "variant", "releases", "logits equal", "stages compared", "first stage", "position",
    ]  # fmt: skip
    assert found.astype(object).where(found.notna(), None).to_numpy().tolist() == [
        ["original", "4.48.0", True, 4, "", None],
        ["minimal", "5.2.0", False, 4, "layer 0, the attention output", 1],
        ["fixed", "5.2.0", False, 4, "", None],
        ["fixed", "5.9.0", True, 3, "", None],
    ]
    other = findings.first_differences(reference, runs[:2], table, 0)
    assert other["first stage"].tolist() == ["", "the token embedding"]
    assert other["logits equal"].tolist() == [False, True]


def test_verdicts_stand_in_the_order_of_the_releases_however_many():
    releases = [f"5.{minor}.0" for minor in range(60)]
    rows = [
        {"tf_version": release, "variant": variant, "prompt": 0, "verdict": f"{variant} on {release}"}
        for release in releases
        for variant in ("minimal", "fixed")
    ]
    found = findings.verdicts(pd.DataFrame(rows))
    assert found["variant"].tolist() == ["minimal"] * 60 + ["fixed"] * 60
    assert found["releases"].tolist() == releases * 2


def test_a_verdict_is_told_of_each_prompt():
    table = frame(
        "tf_version variant prompt verdict",
        ("4.48.0", "fixed", 0, "equal"), ("4.48.0", "fixed", 1, "equal"),
        ("4.48.0", "original", 0, "equal"), ("4.48.0", "original", 1, "equal"),
        ("5.9.0", "minimal", 0, "parts"), ("5.9.0", "minimal", 1, "equal"),
        ("5.9.0", "fixed", 0, "equal"), ("5.9.0", "fixed", 1, "parts"),
        ("5.10.4", "fixed", 0, "parts"), ("5.10.4", "fixed", 1, "parts"),
        ("5.11.0", "fixed", 0, "parts"), ("5.11.0", "fixed", 1, "parts"),
    )  # fmt: skip
    found = findings.verdicts(table)
    assert list(found.columns) == ["variant", "releases", "prompts", "verdict"]
    assert found.to_numpy().tolist() == [
        ["original", "4.48.0", "0, 1", "equal"],
        ["minimal", "5.9.0", "0", "parts"],
        ["minimal", "5.9.0", "1", "equal"],
        ["fixed", "4.48.0", "0, 1", "equal"],
        ["fixed", "5.9.0", "0", "equal"],
        ["fixed", "5.9.0", "1", "parts"],
        ["fixed", "5.10.4 to 5.11.0", "0, 1", "parts"],
    ]


def test_a_run_without_numbers_failed():
    table = frame(
        "tf_version variant prompt positions bitwise_equal max_abs_diff",
        ("5.9.0", "minimal", 0, 0, False, NAN), ("5.9.0", "fixed", 0, 3, False, NAN),
    )  # fmt: skip
    runs = findings.parity_by_run(table).set_index("variant")
    assert runs["failed"].to_dict() == {"minimal": True, "fixed": False}
    assert findings.parity_cell(False, NAN, failed=True) == "failed"
    assert findings.equal_releases(table).endswith("minimal 0 of 1, fixed 0 of 1")


def test_conditions_are_each_runs_own(tmp_path):
    other = {"dtype": "bfloat16", "device": "cuda", "attn_implementation": "eager"}
    found = findings.conditions([make_run(tmp_path), make_run(tmp_path, "5.2.0", "fixed", settings=other)])
    assert found.loc[0].to_dict() == {
        "run": "4.48.0 original",
        "torch": "2.13.0", "tokenizers": "0.21.0", "safetensors": "0.5.0", "python": "3.11.9",
        "dtype": "float32", "device": "cpu", "attn_implementation": "sdpa", "torch threads": 2,
        "tensors unlike the checkpoint": "0 of 74", "peak memory of the": "run",
        "seconds, import": 1.5, "seconds, the rest": 2.8, "peak memory (MiB)": 300,
    }  # fmt: skip
    assert found.loc[1, ["dtype", "device", "attn_implementation"]].to_list() == list(other.values())
    assert len(found) == 2


# One release


def test_what_all_variants_say_is_said_once():
    assert findings.of_each({"original": "It leads.", "fixed": "It leads."}) == "It leads."
    assert findings.of_each({"minimal": "It leads.", "fixed": "It trails."}) == (
        "minimal: It leads.\nfixed: It trails."
    )


@pytest.mark.parametrize(("text", "shown"), [("abcdef", "abcdef"), ("abcdefg", "abc … efg")])
def test_an_excerpt_is_the_two_ends(text, shown):
    assert findings.excerpt(text, 6) == shown


def test_completions_stand_side_by_side(tmp_path):
    runs = [
        make_run(tmp_path, "5.2.0", variant, prompts=({}, {}), completions=completions)
        for variant, completions in (("minimal", [" a", " b"]), ("fixed", [" c", " d"]))
    ]
    table = findings.completions(runs)
    assert list(table.columns) == ["prompt", "tf_version", "variant", "completion"]
    assert table["prompt"].tolist() == [text for text in runs[0].record["prompts"] for _ in runs]
    assert table[["tf_version", "variant", "completion"]].to_numpy().tolist() == [
        ["5.2.0", "minimal", " a"], ["5.2.0", "fixed", " c"], ["5.2.0", "minimal", " b"], ["5.2.0", "fixed", " d"],
    ]  # fmt: skip


# Features


def test_what_is_wanting_is_told_with_its_releases():
    table = frame(
        "tf_version variant group feature result error",
        ("4.48.0", "fixed", "auto", "loads", "fails", "off"), ("4.49.0", "fixed", "auto", "loads", "fails", "off"),
        ("4.50.3", "fixed", "auto", "loads", "ok", ""), ("4.51.3", "fixed", "auto", "loads", "fails", "worse"),
        ("4.48.0", "minimal", "auto", "loads", "fails", "off"),
    )  # fmt: skip
    assert findings.wanting_features(table).to_numpy().tolist() == [
        ["auto", "loads", "fails", "off", "4.48.0 to 4.49.0"], ["auto", "loads", "fails", "worse", "4.51.3"],
    ]  # fmt: skip


def checks(*rows):
    """Return rows of `compat.csv`: release, group, feature, result, all of the fixed folder."""
    return frame("tf_version group feature result", *rows).assign(variant="fixed")


CHECKS = checks(
    ("5.10.4", "weights", "whole", "fails"),
    ("5.10.4", "logits", "right", "ok"),
    ("5.9.0", "weights", "whole", "unsupported by this release"),
    ("5.9.0", "logits", "right", "ok"),
    ("5.9.0", "logits", "fast", "ok"),
)


def test_features_keep_their_order_and_releases_ascend():
    codes = findings.feature_codes(CHECKS)
    assert list(codes.columns) == ["5.9.0", "5.10.4"]
    assert list(codes.index) == [("weights", "whole"), ("logits", "right"), ("logits", "fast")]
    assert np.array_equal(codes.to_numpy(), [[1, 0], [2, 2], [2, NAN]], equal_nan=True)


def test_only_the_fixed_folder_is_told():
    others = [CHECKS.assign(variant=variant, result="fails") for variant in ("minimal", "original")]
    codes = findings.feature_codes(pd.concat([*others, CHECKS]))
    assert codes.equals(findings.feature_codes(CHECKS))


def test_of_two_results_of_a_check_the_worse_counts():
    row = ("5.9.0", "logits", "right")
    for results in (["ok", "fails"], ["fails", "ok"]):
        assert findings.feature_codes(checks(*((*row, result) for result in results))).to_numpy().tolist() == [[0]]


def test_a_result_that_is_not_known_is_an_error():
    with pytest.raises(KeyError, match="okay"):
        findings.feature_codes(checks(("5.9.0", "logits", "right", "okay")))


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([[2, 2], [2, 2], [1, 2]], "3 features on 2 releases: nothing fails, 1 unsupported"),
        ([[2, 0], [0, 0], [1, 1]], "3 features on 2 releases: 3 checks fail, 2 unsupported"),
        ([[2, NAN], [2, 2], [1, NAN]], "3 features on 2 releases: nothing fails, 1 unsupported, 2 not checked"),
        ([[0, NAN, 1]], "1 features on 3 releases: 1 checks fail, 1 unsupported, 1 not checked"),
    ],
)
def test_checks_that_fail_are_unsupported_or_were_not_made_are_counted_apart(codes, said):
    assert findings.failing_features(pd.DataFrame(codes, dtype=float)) == said


def test_the_verdict_of_the_features_counts_the_fixed_folder():
    assert findings.compat_verdict(CHECKS) == (
        "Of 5 checks of the fixed folder on 2 releases 1 failed; 1 ask for what the release does not support."
    )
    assert findings.compat_verdict(CHECKS[CHECKS["result"] == "ok"]).startswith(
        "Of 3 checks of the fixed folder on 2 "
    )
    assert "none failed; 0 ask" in findings.compat_verdict(CHECKS[CHECKS["result"] == "ok"])


def test_nothing_fails_is_said_only_where_something_was_checked():
    codes = findings.feature_codes(CHECKS[:0])
    assert findings.failing_features(codes) == "0 features on 0 releases: nothing was checked"


# Scores


def test_runs_are_equal_on_all_tasks_or_not_at_all():
    table = frame(
        "tf_version variant task equal",
        ("5.9.0", "fixed", "facts", True), ("5.9.0", "fixed", "prose", True),
        ("5.9.0", "minimal", "facts", True), ("5.9.0", "minimal", "prose", False),
        ("5.10.4", "fixed", "prose", True),  # not evaluated on facts
        ("5.10.4", "minimal", "facts", False), ("5.10.4", "minimal", "prose", False),
    )  # fmt: skip
    same = "Releases whose scores are the reference's, bit for bit"
    assert findings.equal_scores(table) == f"{same}: minimal 0 of 2, fixed 1 of 2"
    assert findings.equal_scores(table[:2]) == f"{same}: fixed 1 of 1"


def test_equal_runs_of_a_variant_share_a_row():
    table = frame(
        "tf_version variant task equal",
        ("5.9.0", "fixed", "facts", True), ("5.9.0", "fixed", "prose", True),
        ("5.10.4", "fixed", "facts", True), ("5.10.4", "fixed", "prose", False),
        ("5.11.0", "fixed", "facts", True), ("5.11.0", "fixed", "prose", True),
        ("5.9.0", "minimal", "facts", False), ("5.10.4", "minimal", "facts", True),
        ("5.11.0", "minimal", "facts", False), ("5.9.0", "vllm", "facts", False),
    )  # fmt: skip
    assert findings.score_rows(table) == {
        ("5.9.0", "vllm"): "vllm 5.9.0",
        ("5.9.0", "minimal"): "minimal 5.9.0", ("5.9.0", "fixed"): "fixed, 2 releases",
        ("5.10.4", "minimal"): "minimal 5.10.4", ("5.10.4", "fixed"): "fixed 5.10.4",
        ("5.11.0", "minimal"): "minimal 5.11.0", ("5.11.0", "fixed"): "fixed, 2 releases",
    }  # fmt: skip


FAMILY = frame(
    "task metric model revision variant tf_version score reference",
    ("facts", "accuracy", "org--large", "2000", "original", "4.48.0", 0.5, 0.5),
    ("facts", "accuracy", "org--large", "2000", "minimal", "5.9.0", 0.25, 0.5),
    ("facts", "accuracy", "org--large", "2000", "minimal", "5.10.4", 0.5, 0.5),
    ("facts", "accuracy", "org--large", "2000", "fixed", "5.9.0", 0.5, 0.5),
    ("facts", "accuracy", "org--large", "2000", "fixed", "5.10.4", 0.5, 0.5),
    ("facts", "accuracy", "org--large", "4000", "original", "4.48.0", 0.75, 0.75),
    ("facts", "accuracy", "org--large", "4000", "fixed", "5.9.0", 0.75, 0.75),
    ("facts", "accuracy", "org--large", "4000", "fixed", "5.10.4", NAN, 0.75),
    ("facts", "accuracy", "org--small", "", "fixed", "5.10.4", 0.125, 0.125 + 1e-15),
    ("prose", "nats per token", "org--small", "", "fixed", "5.10.4", 2.5, 2.5),
)


def test_scores_span_the_releases_of_a_checkpoint():
    spans = findings.score_spans(FAMILY)
    columns = ["task", "metric", "model", "revision", "variant", "releases", "lowest", "highest", "same"]
    assert list(spans.columns) == columns
    assert spans.astype(object).where(spans.notna(), None).to_numpy().tolist() == [
        ["facts", "accuracy", "org--large", "2000", "original", 1, 0.5, 0.5, True],
        ["facts", "accuracy", "org--large", "2000", "minimal", 2, 0.25, 0.5, False],
        ["facts", "accuracy", "org--large", "2000", "fixed", 2, 0.5, 0.5, True],
        ["facts", "accuracy", "org--large", "4000", "original", 1, 0.75, 0.75, True],
        ["facts", "accuracy", "org--large", "4000", "fixed", 2, None, None, False],
        ["facts", "accuracy", "org--small", "", "fixed", 1, 0.125, 0.125, False],
        ["prose", "nats per token", "org--small", "", "fixed", 1, 2.5, 2.5, True],
    ]


def test_scores_are_counted_by_task_and_checkpoint():
    assert findings.unchanged_scores(FAMILY) == (
        "Scores that are the original's on every release evaluated: original 2 of 2, minimal 0 of 1, fixed 2 of 4"
    )


def test_variants_lie_on_the_diagonal_wholly_or_not():
    still, one, all_of_them = np.zeros(9, bool), np.arange(9) == 8, np.ones(9, bool)
    said = "Log-likelihoods lie on the diagonal, exactly, in {} variants"
    moved = {"original": still, "minimal": one, "fixed": still}
    assert findings.moved_likelihoods(moved) == said.format("2 of 3")
    assert findings.moved_likelihoods({"minimal": all_of_them}) == said.format("0 of 1")


def test_perplexity_is_exp_of_the_mean():
    nats = pd.Series([1.0, 3.0])
    assert findings.perplexity(nats) == pytest.approx(math.e**2)  # and not (e + e^3) / 2
    assert math.isnan(findings.perplexity(pd.Series([1.0, NAN])))


def test_bins_begin_at_position_0():
    positions = pd.DataFrame({"position": [7, 0, 3, 4, 9], "nats": [4.0, 1.0, 2.0, 2.0, NAN]})
    found = findings.perplexity_by_bin(positions, 4)
    assert found.index.tolist() == [0, 4, 8]
    assert found.tolist()[:2] == pytest.approx([math.e**1.5, math.e**3])
    assert math.isnan(found[8])


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({("5.2.0", "fixed"): 1.125, ("5.9.0", "fixed"): 1.125}, "fixed 1.125"),
        ({("5.2.0", "fixed"): 1.25, ("5.9.0", "fixed"): 1.125}, "fixed 1.125 to 1.25"),
        ({("5.2.0", "fixed"): 1.23456, ("5.9.0", "fixed"): 2.34567}, "fixed 1.235 to 2.346"),
        ({("5.2.0", "fixed"): 1.0, ("5.9.0", "fixed"): 1.0 + 2**-52}, "fixed 1 to 1.0000000000000002"),
        ({("5.2.0", "fixed"): 6.67312, ("5.9.0", "fixed"): 6.67314}, "fixed 6.67312 to 6.67314"),
        ({("5.2.0", "fixed"): 1.11104, ("5.9.0", "fixed"): 9.99996}, "fixed 1.111 to 10"),
        ({("5.2.0", "fixed"): NAN, ("5.9.0", "fixed"): 1.125}, "fixed NaN"),
        ({("5.2.0", "fixed"): 1.125, ("5.9.0", "fixed"): NAN}, "fixed NaN"),
        ({("5.2.0", "fixed"): 1.5, ("5.2.0", "minimal"): 99.0, ("4.48.0", "original"): 2.0},
         "original 2, minimal 99, fixed 1.5"),
    ],
)  # fmt: skip
def test_perplexities_run_from_a_variants_lowest_to_its_highest(runs, said):
    assert findings.perplexities("prose", runs) == f"prose, perplexity over all: {said}"


# One run


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (4.0, 1.5, "' Paris' leads ' Rome' by 2.5 logits"),
        (4.0004, 4.0, "' Paris' leads ' Rome' by 0.0004 logits"),
        (4.0, 4.0, "' Paris' and ' Rome' have the same logit"),
        (NAN, 1.5, "' Paris' leads ' Rome' by NaN logits"),
        (NAN, NAN, "' Paris' leads ' Rome' by NaN logits"),
    ],
)
def test_the_first_token_leads_the_second(first, second, said):
    best = [
        {"token": token, "logit": logit} for token, logit in [(" Paris", first), (" Rome", second), (" Bonn", -9.0)]
    ]
    assert findings.lead(best) == said


@pytest.mark.parametrize(
    ("nats", "said"),
    [
        ([1.0, 2.0, 6.0], "The model spends 3 nats a token; a uniform guess spends 6.24"),
        ([0.0004], "The model spends 0.0004 nats a token; a uniform guess spends 6.24"),
        ([1.0, NAN], "The model spends NaN nats a token; a uniform guess spends 6.24"),
        ([], "The prompt has one token: there is none to predict"),
    ],
)
def test_surprisal_is_the_mean_over_tokens_beside_a_uniform_guess(nats, said):
    assert findings.mean_surprisal(np.array(nats), 512) == said  # ln 512 = 9 ln 2 = 6.238
