"""Bisection, on made-up releases and on the real ones."""

import json
from shlex import quote

import numpy as np
import pytest

from opensci_lib import kernels
from opensci_lib.bisect import PROMPT, Bisection, bisect
from opensci_lib.errors import OpensciError
from opensci_lib.runs.capture import CaptureWriter
from tests.stand_in import StandIn

STAGES = ["model.embed_tokens", "model.layers.0.self_attn.k_rope", "lm_head"]
#: What a run of three positions, two words and one frequency computed where all is right.
RIGHT = {
    "token_ids": np.array([5, 6, 7]),
    "logits": np.array([[1, 2], [3, 4], [5, 6]], np.float32),
    "cos": np.ones((3, 2), np.float32),
    "sin": np.zeros((3, 2), np.float32),
    "inv_freq": np.array([0.5], np.float32),
    "fingerprints": np.arange(9).reshape(3, 3),
}
UNEXPLAINED = "weights and inv_freq are right, so the computation differs"


def altered(name, index, value):
    """Return what differs from `RIGHT` in one number."""
    array = RIGHT[name].copy()
    array[index] = value
    return {name: array}


@pytest.fixture
def folder(tmp_path):
    """A model folder that is whole; no code of it is run."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


@pytest.fixture
def releases(tmp_path, monkeypatch, folder):
    """Return a function that makes up releases: each computes what is given, or says something and fails."""
    stand_in = StandIn(tmp_path / "stand-in", monkeypatch)

    def make(outcomes: dict[str, dict | str], differing=()):
        for release, outcome in outcomes.items():
            if isinstance(outcome, str):
                stand_in.add(release, f"printf '%s' {quote(outcome)} >&2; exit 7")
                continue
            run = tmp_path / release
            run.mkdir()
            with CaptureWriter(run / "capture.safetensors", [PROMPT]) as writer:
                writer.stages = STAGES
                for name, array in {**RIGHT, **outcome}.items():
                    writer.add(f"0.{name}", array)
            record = {
                "settings": {"dtype": "float32"},
                "versions": {},
                "weights": {"tensors": 9, "differing": list(differing)},
            }
            (run / "run.json").write_text(json.dumps(record))
            stand_in.add(release, f'[ "$1 $3 $5" = "-c {folder} {PROMPT}" ] && cp {run}/* "$4"')
        return stand_in

    return make


def silent(line):
    pass


NINE = [f"4.{minor}.0" for minor in range(48, 57)]


@pytest.mark.parametrize(
    ("first_bad", "tried"),
    [
        (1, [0, 8, 4, 2, 1]),
        (2, [0, 8, 4, 2, 1]),
        (3, [0, 8, 4, 2, 3]),
        (4, [0, 8, 4, 2, 3]),
        (5, [0, 8, 4, 6, 5]),
        (6, [0, 8, 4, 6, 5]),
        (7, [0, 8, 4, 6, 7]),
        (8, [0, 8, 4, 6, 7]),
    ],
)
def test_the_first_bad_release_is_found_by_halving(releases, folder, first_bad, tried):
    wrong = altered("fingerprints", (2, 1), 99) | altered("logits", (1, 0), 9)
    stand_in = releases({name: {} if i < first_bad else wrong for i, name in enumerate(NINE)})
    found = bisect(folder, report=silent)
    what = f"parts from the reference at the logits, position 1: {UNEXPLAINED}"
    assert found == Bisection(NINE[first_bad - 1], NINE[first_bad], what, ())
    assert stand_in.calls == [NINE[i] for i in tried]


def test_two_neighbours_need_no_more_than_themselves(releases, folder):
    stand_in = releases({"4.48.0": {}, "5.0.0": "broken"})
    assert bisect(folder, report=silent) == Bisection("4.48.0", "5.0.0", "broken", ())
    assert stand_in.calls == ["4.48.0", "5.0.0"]


def test_what_is_said_is_of_the_first_bad_release(releases, folder):
    """The newest fails otherwise, and so does one on the way."""
    outcomes: dict = {name: {} for name in NINE[:3]}
    outcomes |= {
        NINE[3]: altered("inv_freq", 0, 8),
        NINE[4]: "KeyError: 'default'",
        NINE[5]: "no", NINE[6]: "no", NINE[7]: "no", NINE[8]: "ImportError: LossKwargs",
    }  # fmt: skip
    releases(outcomes)
    found = bisect(folder, report=silent)
    assert (found.last_good, found.first_bad) == (NINE[2], NINE[3])
    assert "inv_freq holds [8" in found.what
    assert found.rules == ("rope-buffer",)


def test_each_try_is_reported(releases, folder):
    releases({"4.48.0": {}, "4.49.0": {}, "5.0.0": "Traceback ...\n  line 1\nKeyError: 'default'\n"})
    lines = []
    bisect(folder, report=lines.append)
    assert lines == ["5.0.0: KeyError: 'default'", "4.49.0: the same as 4.48.0, bit for bit"]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_difference_at_any_one_position_counts(releases, folder, position):
    releases({"4.48.0": {}, "5.0.0": altered("fingerprints", (1, position), 99)})
    assert bisect(folder, report=silent).what == (
        f"parts from the reference at layer 0, keys after RoPE, position {position}, though the logits are equal: "
        f"{UNEXPLAINED}"
    )


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_difference_of_the_logits_alone_counts(releases, folder, position):
    releases({"4.48.0": {}, "5.0.0": altered("logits", (position, 1), 7)})
    assert bisect(folder, report=silent).what == (
        f"parts from the reference at the logits, position {position}, though no stage in both differs: {UNEXPLAINED}"
    )


def test_the_smallest_difference_counts(releases, folder):
    releases({"4.48.0": {}, "5.0.0": altered("logits", (0, 0), np.nextafter(np.float32(1), np.float32(2)))})
    assert bisect(folder, report=silent).first_bad == "5.0.0"


def test_what_cannot_be_compared_is_not_the_same(releases, folder):
    releases({"4.48.0": {}, "5.0.0": altered("token_ids", 2, 8)})
    found = bisect(folder, report=silent)
    assert found.first_bad == "5.0.0"
    assert "hold different token ids for prompt 0" in found.what


def test_a_release_that_fails_between_good_ones_is_the_first_bad(releases, folder):
    releases({"4.48.0": {}, "4.49.0": {}, "4.50.3": "no room", "4.51.3": {}, "4.52.4": "broken"})
    assert bisect(folder, report=silent) == Bisection("4.49.0", "4.50.3", "no room", ())


def test_a_release_beyond_the_ends_is_not_tried(releases, folder):
    stand_in = releases({name: {} if i < 5 else "wrong" for i, name in enumerate(NINE)})
    found = bisect(folder, NINE[3], NINE[6], report=silent)
    assert (found.last_good, found.first_bad) == (NINE[4], NINE[5])
    assert set(stand_in.calls) == {NINE[3], NINE[4], NINE[5], NINE[6]}


def test_only_the_releases_that_are_named_are_tried(releases, folder):
    stand_in = releases({name: {} if i < 5 else "wrong" for i, name in enumerate(NINE)})
    found = bisect(folder, releases=[NINE[0], NINE[4], NINE[7]], report=silent)
    assert (found.last_good, found.first_bad) == (NINE[4], NINE[7])
    assert stand_in.calls == [NINE[0], NINE[7], NINE[4]]


def test_releases_are_ordered_as_numbers(releases, folder):
    releases({"5.0.0": {}, "5.9.0": {}, "5.10.4": "wrong"})
    found = bisect(folder, report=silent)
    assert (found.last_good, found.first_bad) == ("5.9.0", "5.10.4")


@pytest.mark.parametrize(
    ("said", "rules"),
    [
        ("ImportError: cannot import name 'LossKwargs'", ("loss-kwargs",)),
        ("KeyError: 'default'", ("rope-default",)),
        ("AttributeError: 'list' object has no attribute 'keys'", ("tied-keys",)),
        ("something else", ()),
        # Several causes at once, each known to a rule of its own.
        ("LossKwargs and inv_freq holds nothing and _init_weights overwrote it",
         ("init-weights", "loss-kwargs", "rope-buffer")),
    ],
)  # fmt: skip
def test_the_rules_that_know_the_fault_are_named(releases, folder, said, rules):
    releases({"4.48.0": {}, "5.0.0": said})
    found = bisect(folder, report=silent)
    assert found.what == said
    assert found.rules == rules


def test_overwritten_weights_name_their_rule(releases, folder):
    releases({"4.48.0": {}})
    releases({"5.0.0": altered("logits", (0, 0), 2)}, differing=["lm_head.weight"])
    assert bisect(folder, report=silent).rules == ("init-weights",)


def test_a_failure_without_a_word_gives_its_status(releases, folder):
    releases({"4.48.0": {}, "5.0.0": ""})
    assert bisect(folder, report=silent).what == "exit status 7"


def test_a_sentence_of_this_package_is_given_without_its_class(releases, folder):
    releases({"4.48.0": {}, "5.0.0": "opensci_lib.errors.OpensciError: Take another folder."})
    assert bisect(folder, report=silent).what == "Take another folder."


def test_nothing_to_look_for(releases, folder):
    releases({"4.48.0": {}, "5.0.0": {}})
    with pytest.raises(OpensciError) as caught:
        bisect(folder, report=silent)
    assert str(caught.value) == (
        f"{folder} computes the same on 5.0.0 as on 4.48.0, bit for bit: nothing to look for."
    )


def test_a_good_release_that_is_bad(releases, folder):
    releases({"4.48.0": "broken", "5.0.0": {}})
    with pytest.raises(OpensciError) as caught:
        bisect(folder, report=silent)
    assert str(caught.value) == f"{folder} does not run on 4.48.0, which should be good: broken"


@pytest.mark.parametrize(
    ("good", "bad"), [("5.0.0", "4.48.0"), ("4.48.0", "4.48.0"), ("1.0.0", "5.0.0"), (None, "9.0.0")]
)
def test_the_ends_must_be_in_order(releases, folder, good, bad):
    stand_in = releases({"4.48.0": {}, "5.0.0": {}})
    with pytest.raises(OpensciError) as caught:
        bisect(folder, good, bad, report=silent)
    assert str(caught.value) == "--good and --bad must be two of these releases, the older one first: 4.48.0, 5.0.0."
    assert stand_in.calls == []


@pytest.mark.kernel
def test_the_miniature_as_published_stops_loading(miniature):
    found = bisect(miniature, releases=["4.48.0", "4.49.0", "4.57.6", "5.2.0"], report=print)
    assert (found.last_good, found.first_bad) == ("4.49.0", "4.57.6")
    assert "LossKwargs" in found.what
    assert "loss-kwargs" in found.rules


@pytest.mark.kernel
def test_the_minimal_folder_goes_wrong_in_silence(variant_folder):
    found = bisect(variant_folder("minimal"), releases=["4.57.6", "5.2.0"], report=print)
    assert found.first_bad == "5.2.0"
    assert "layer 0, queries after RoPE" in found.what
    assert found.rules == ("rope-buffer",)


_NATIVE = """
import sys
from pathlib import Path
from opensci_lib.compat.native import _folder

_folder("Llama", Path(sys.argv[1]))
"""


@pytest.mark.kernel
def test_a_native_decoder_is_served_too(tmp_path):
    """A folder without code of its own, which nothing ails."""
    folder = tmp_path / "llama"
    assert kernels.run("4.48.0", "-c", _NATIVE, folder).returncode == 0
    with pytest.raises(OpensciError, match=r"computes the same .* bit for bit"):
        bisect(folder, "4.48.0", "5.23.0", report=lambda line: None)
