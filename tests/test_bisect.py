"""Bisection, on made-up releases and on the real ones."""

from pathlib import Path

import pytest

from opensci_lib import bisect as module
from opensci_lib import kernels
from opensci_lib.bisect import bisect
from opensci_lib.errors import OpensciError


@pytest.fixture
def releases(monkeypatch):
    """Return a function that makes up releases: name to what a run says; equal words mean equal numbers."""

    def make(outcomes: dict[str, str]):
        tried = []

        def probe(folder, release, prompt, scratch):
            tried.append(release)
            return outcomes[release]

        monkeypatch.setattr(module, "check_model_folder", Path)
        monkeypatch.setattr(module, "_probe", lambda *arguments: _Numbers(probe(*arguments)))
        monkeypatch.setattr(module, "_difference", lambda a, b: None if a.word == b.word else f"parts: {b.word}")
        return tried

    return make


class _Numbers:
    def __init__(self, word):
        self.word = word


@pytest.mark.parametrize("first_bad", range(1, 9))
def test_the_first_bad_release_is_found_in_few_steps(releases, first_bad):
    names = [f"4.{minor}.0" for minor in range(48, 57)]
    tried = releases({name: "right" if i < first_bad else "wrong" for i, name in enumerate(names)})
    found = bisect("model", releases=names, report=lambda line: None)
    assert (found.last_good, found.first_bad) == (names[first_bad - 1], names[first_bad])
    assert found.what == "parts: wrong"
    assert len(tried) <= 2 + 3  # both ends, then three halvings of eight steps


def test_the_rule_that_knows_the_fault_is_named(releases):
    releases({"4.48.0": "right", "5.0.0": "inv_freq holds [0, 0]"})
    assert bisect("model", releases=["4.48.0", "5.0.0"], report=lambda line: None).rules == ("rope-buffer",)


def test_nothing_to_look_for(releases):
    releases({"4.48.0": "right", "5.0.0": "right"})
    with pytest.raises(OpensciError, match="nothing to look for"):
        bisect("model", releases=["4.48.0", "5.0.0"], report=lambda line: None)


@pytest.mark.parametrize(("good", "bad"), [("5.0.0", "4.48.0"), ("4.48.0", "4.48.0"), ("1.0.0", "5.0.0")])
def test_the_ends_must_be_in_order(releases, good, bad):
    releases({})
    with pytest.raises(OpensciError, match="the older one first"):
        bisect("model", good, bad, releases=["4.48.0", "5.0.0"], report=lambda line: None)


def test_the_miniature_as_published_stops_loading(miniature):
    found = bisect(miniature, releases=["4.48.0", "4.49.0", "4.57.6", "5.2.0"], report=print)
    assert (found.last_good, found.first_bad) == ("4.49.0", "4.57.6")
    assert "LossKwargs" in found.what
    assert "loss-kwargs" in found.rules


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


def test_a_native_decoder_is_served_too(tmp_path):
    """A folder without code of its own, which nothing ails."""
    folder = tmp_path / "llama"
    assert kernels.run("4.48.0", "-c", _NATIVE, folder).returncode == 0
    with pytest.raises(OpensciError, match=r"computes the same .* bit for bit"):
        bisect(folder, "4.48.0", "5.23.0", report=lambda line: None)
