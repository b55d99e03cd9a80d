"""Comparisons, on captures made by hand whose differences are known."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from opensci_lib.capture import Capture, CaptureWriter
from opensci_lib.compare import (
    Run,
    compare_positions,
    describe_stage,
    find_runs,
    first_divergence,
    parity,
    verdict,
)
from opensci_lib.errors import OpensciError

STAGES = ["model.embed_tokens", "model.layers.0.self_attn.q_rope", "model.layers.0.self_attn.k_rope", "lm_head"]
POSITIONS, VOCABULARY = 5, 7


def tensors(**changes):
    """Return what a capture of one prompt holds, with some tensors replaced."""
    angles = np.outer(np.arange(POSITIONS), [1.0, 0.1]).astype(np.float32)
    plain = {
        "token_ids": np.arange(POSITIONS),
        "logits": np.random.default_rng(0).normal(size=(POSITIONS, VOCABULARY)).astype(np.float32),
        "cos": np.cos(np.hstack([angles, angles])),
        "sin": np.sin(np.hstack([angles, angles])),
        "inv_freq": np.array([1.0, 0.1], dtype=np.float32),
        "fingerprints": np.arange(len(STAGES) * POSITIONS).reshape(len(STAGES), POSITIONS),
    }
    return {**plain, **changes}


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run folder and returns the Run."""

    def make(tf_version="4.48.0", variant="original", differing=(), **changes):
        folder = tmp_path / tf_version / variant
        folder.mkdir(parents=True)
        with CaptureWriter(folder / "capture.safetensors", ["prompt"]) as writer:
            writer.stages = STAGES
            for name, array in tensors(**changes).items():
                writer.add(f"0.{name}", array)
        top = [{"token": " Paris", "logit": 3.5}, {"token": " Rome", "logit": 1.25}]
        record = {
            "variant": variant,
            "versions": {"transformers": tf_version},
            "settings": {"dtype": "float32"},
            "completions": [" Paris."],
            "tokens": [list("abcde")],
            "top_tokens": [top],
            "weights": {"tensors": 74, "differing": list(differing)},
        }
        (folder / "run.json").write_text(json.dumps(record))
        return Run(folder)

    return make


def changed(name, index, value):
    array = tensors()[name].copy()
    array[index] = value
    return {name: array}


def test_a_capture_is_a_safetensors_file(make_run):
    run = make_run()
    with safe_open(run.path / "capture.safetensors", framework="np") as file:
        assert set(file.keys()) == {f"0.{name}" for name in tensors()}
        for name, array in tensors().items():
            read = file.get_tensor(f"0.{name}")
            assert read.dtype == array.dtype
            assert np.array_equal(read, array)
    assert run.capture.stages == STAGES
    assert run.capture.prompts == ["prompt"]


def test_bfloat16_keeps_its_bits(tmp_path):
    array = np.arange(12, dtype=np.uint16).reshape(3, 4).view(ml_dtypes.bfloat16)
    with CaptureWriter(tmp_path / "c.safetensors", []) as writer:
        writer.add("0.logits", array)
    read = Capture(tmp_path / "c.safetensors")["0.logits"]
    assert read.dtype == ml_dtypes.bfloat16
    assert np.array_equal(read.view(np.uint16), array.view(np.uint16))


def test_a_failed_capture_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), CaptureWriter(tmp_path / "c.safetensors", []) as writer:
        writer.add("0.logits", np.zeros((2, 2)))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_equal_runs(make_run):
    reference, run = make_run(), make_run("5.2.0", "fixed")
    frame = compare_positions(reference.capture, run.capture, 0)
    assert len(frame) == POSITIONS
    assert frame["bitwise_equal"].all()
    assert frame["top1_agreement"].all()
    assert (frame[["max_abs_diff", "mean_abs_diff", "kl", "cos_abs_diff", "sin_abs_diff"]] == 0).all(axis=None)
    assert first_divergence(reference.capture, run.capture, 0) is None
    assert "equal" in verdict(reference, run, 0)


def test_one_changed_logit(make_run):
    logits = tensors()["logits"]
    run = make_run("5.2.0", "fixed", **changed("logits", (3, 2), logits[3, 2] + 8))
    frame = compare_positions(make_run().capture, run.capture, 0)
    assert frame["bitwise_equal"].tolist() == [True, True, True, False, True]
    assert frame["max_abs_diff"][3] == pytest.approx(8, rel=1e-6)
    assert frame["mean_abs_diff"][3] == pytest.approx(8 / VOCABULARY, rel=1e-6)
    p = np.exp(logits[3].astype(np.float64))
    p /= p.sum()
    # adding d to one logit: KL(p || q) = log(1 + p_i (e^d - 1)) - p_i d
    assert frame["kl"][3] == pytest.approx(np.log1p(p[2] * np.expm1(8)) - p[2] * 8, rel=1e-6)
    assert not frame["top1_agreement"][3]


def test_signed_zero_and_nan_are_compared_by_bits(make_run):
    zero = changed("logits", (0, 0), 0.0)
    negative = changed("logits", (0, 0), -0.0)
    a, b = make_run("4.48.0", "original", **zero), make_run("5.2.0", "fixed", **negative)
    assert not compare_positions(a.capture, b.capture, 0)["bitwise_equal"][0]
    nan = changed("logits", (1, 1), np.nan)
    c, d = make_run("5.3.0", "fixed", **nan), make_run("5.4.0", "fixed", **nan)
    assert compare_positions(c.capture, d.capture, 0)["bitwise_equal"].all()


def test_other_tokens_are_not_compared(make_run):
    other = make_run("5.2.0", "fixed", **changed("token_ids", 0, 99))
    with pytest.raises(OpensciError, match="different token ids"):
        compare_positions(make_run().capture, other.capture, 0)


def test_first_divergence_is_causal_not_positional(make_run):
    fingerprints = tensors()["fingerprints"].copy()
    fingerprints[3, 0] = -1  # the logits differ at position 0
    fingerprints[2, 4] = -1  # but keys, computed earlier, differ at position 4
    run = make_run("5.2.0", "minimal", fingerprints=fingerprints)
    assert first_divergence(make_run().capture, run.capture, 0) == ("model.layers.0.self_attn.k_rope", 4)


def test_stages_in_words():
    assert describe_stage("model.layers.11.self_attn.k_rope") == "layer 11, keys after RoPE"
    assert describe_stage("model.embed_tokens") == "the token embedding"


def test_the_verdict_names_an_uninitialised_inv_freq(make_run):
    garbage = make_run(
        "5.2.0",
        "minimal",
        inv_freq=np.array([1e12, -56.3], dtype=np.float32),
        **changed("fingerprints", (1, 1), -1),
    )
    text = verdict(make_run(), garbage, 0)
    assert "layer 0, queries after RoPE, position 1" in text
    assert "1e+12" in text
    assert "uninitialised" in text


def test_the_verdict_names_overwritten_weights(make_run):
    overwritten = make_run("5.0.0", "minimal", ["a", "b"], **changed("fingerprints", (0, 0), -1))
    text = verdict(make_run(), overwritten, 0)
    assert "2 of 74 tensors" in text
    assert "uninitialised" not in text


def test_parity_has_a_row_per_run_and_prompt(make_run):
    reference = make_run()
    runs = [reference, make_run("5.2.0", "fixed"), make_run("5.2.0", "minimal", **changed("cos", (4, 0), 0.5))]
    table, positions = parity(reference, runs)
    expected = (
        "tf_version variant prompt positions max_abs_diff mean_abs_diff max_kl bitwise_equal top1_agreement "
        "rope_max_abs_diff inv_freq_equal top1_token top1_logit top2_token top2_logit gap completion"
    )
    assert list(table.columns)[:17] == expected.split()
    assert len(table) == 3
    assert len(positions) == 3 * POSITIONS
    assert table["gap"].tolist() == [2.25] * 3
    assert table["rope_max_abs_diff"].tolist() == [0, 0, pytest.approx(abs(0.5 - np.cos(4)), rel=1e-5)]


def test_runs_are_found_in_the_order_of_releases(make_run, tmp_path):
    for release, variant in [("5.10.4", "fixed"), ("5.2.0", "fixed"), ("5.2.0", "minimal"), ("4.48.0", "original")]:
        make_run(release, variant)
    found = [(run.tf_version, run.variant) for run in find_runs(tmp_path)]
    assert found == [("4.48.0", "original"), ("5.2.0", "minimal"), ("5.2.0", "fixed"), ("5.10.4", "fixed")]
