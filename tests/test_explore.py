"""Two runs side by side, and the notebook's form that asks for them; the releases are made up."""

import pytest

from opensci_lib import project
from opensci_lib.reports.explore import Explorer, findings, positions, side_by_side
from tests.hand_made import make_run, tensors
from tests.stand_in import StandIn
from tests.test_tables import shown as table_shown

CHOICES = [("4.48.0", "original"), ("5.2.0", "fixed")]


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """Two releases that computed the same but for the last position, and one that fails."""
    monkeypatch.setattr(project, "OUTPUTS", tmp_path / "outputs")
    stand_in = StandIn(tmp_path / "stand-in", monkeypatch)
    logits = tensors()["logits"]
    logits[2] = [0, 3]
    for release, prompt, likeliest in (
        ("4.48.0", {}, ["b", "a", "a"]),
        ("5.2.0", {"logits": logits}, ["b", "a", "b"]),
    ):
        run = make_run(tmp_path / "made", release, prompts=(prompt,), likeliest=likeliest)
        stand_in.add(release, f'[ "$5" = "a prompt" ] && cp {run.path}/* "$4"')
    stand_in.add("5.3.0", 'echo "opensci_lib.errors.OpensciError: does not load" >&2; exit 1')
    return stand_in


def test_positions_are_compared_one_by_one(releases, tmp_path):
    left, right = side_by_side("miniature", "a prompt", CHOICES, tmp_path)
    table = positions(left, right)
    assert table["token"].tolist() == ["word"] * 3
    assert table["next, left"].tolist() == ["b", "a", "a"]
    assert table["next, right"].tolist() == ["b", "a", "b"]
    assert table["logits equal"].tolist() == [True, True, False]
    assert table["max_abs_diff"].tolist() == [0, 0, 4]


def test_what_is_shown_of_two_runs(releases, tmp_path):
    shown = findings(CHOICES, side_by_side("miniature", "a prompt", CHOICES, tmp_path))
    assert shown[0].data.startswith("fixed on 5.2.0: parts from original on 4.48.0 at the logits, position 2")
    assert "**original on 4.48.0**:  Paris." in shown[0].data
    best, rope, table = shown[1:]
    assert best.get_suptitle() == "' Paris' leads ' Rome' by 2.5 logits"
    assert {"left\nfrequency index", "right\nfrequency index"} <= {axes.get_ylabel() for axes in rope.axes}
    _, (heads, *_, last) = table_shown(table)
    assert heads == ["position (tokens)", "token", "next, left", "next, right", "logits", "largest |Δlogit|"]
    assert last == ["2", "'word'", "'a'", "'b'", "differs", "4"]


def test_what_a_run_said_when_it_failed_is_shown(releases, tmp_path):
    choices = [("4.48.0", "original"), ("5.3.0", "fixed")]
    [said] = findings(choices, side_by_side("miniature", "a prompt", choices, tmp_path))
    assert said.data == "**fixed on 5.3.0** failed: does not load"


def test_the_form_computes_beside_and_forgets_what_is_stale(releases):
    form = Explorer(prompt="a prompt")
    assert form.releases[0].options == ("4.48.0", "5.2.0", "5.3.0")
    assert form.choices == [("4.48.0", "original"), ("5.3.0", "fixed")]
    form.releases[1].value = "5.2.0"
    running = form.compute()
    assert form.button.disabled
    running.join(60)
    assert not form.button.disabled
    assert len(form.shown.outputs) == 4
    assert sorted(releases.calls) == ["4.48.0", "5.2.0"]
    form.variants[1].value = "minimal"
    assert form.shown.outputs == ()


def test_what_was_changed_meanwhile_is_not_shown(releases):
    form = Explorer(prompt="a prompt")
    running = form.compute()
    form.variants[1].value = "minimal"
    running.join(60)
    assert form.shown.outputs == ()


def test_a_model_that_is_not_there_gets_its_sentence(releases):
    form = Explorer("no/such", "a prompt")
    form.compute().join(60)
    [said] = form.shown.outputs
    assert "no/such" in said["data"]["text/markdown"]
