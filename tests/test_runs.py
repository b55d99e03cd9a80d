"""What a run is: names, order, places."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from opensci_lib import compat, project, runs
from opensci_lib.errors import OpensciError
from opensci_lib.runs import failure
from opensci_lib.runs.reference import Reference, reference_of


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


def test_the_reference_is_a_run_that_takes_place():
    assert Reference().run == "4.48.0/original"
    assert Reference().run in runs.names([runs.REFERENCE_RELEASE])


def test_releases_are_numbers_and_come_once():
    assert runs.ascending(["5.10.0", "5.9.0", "4.57.6", "5.10.0", "4.6.0"]) == ["4.6.0", "4.57.6", "5.9.0", "5.10.0"]


def test_variants_have_an_order_and_come_once():
    assert runs.in_order(["fixed", "original", "minimal", "fixed"]) == ["original", "minimal", "fixed"]


def test_the_original_runs_on_4_and_minimal_on_5_and_fixed_on_all():
    assert runs.names(["4.48.0", "5.2.0", "5.2.0", "4.57.6"]) == [
        "4.48.0/original", "4.48.0/fixed", "5.2.0/minimal", "5.2.0/fixed", "4.57.6/original", "4.57.6/fixed",
    ]  # fmt: skip


def test_the_original_runs_on_a_reference_of_5_too_and_minimal_on_others():
    assert runs.names(["5.0.0", "5.2.0"], reference="5.0.0") == [
        "5.0.0/original", "5.0.0/fixed", "5.2.0/minimal", "5.2.0/fixed",
    ]  # fmt: skip


def test_what_is_older_than_the_reference_is_left_out():
    assert runs.since("4.53.3", ["5.10.0", "4.48.0", "4.53.3", "5.9.0", "5.9.0"]) == ["4.53.3", "5.9.0", "5.10.0"]


def test_a_reference_is_recorded_with_the_results(tmp_path):
    found = Reference("4.53.3", found=True, failed={"4.9.0": "ImportError: a", "4.48.0": "ImportError: b"})
    found.save(tmp_path / "reference.json")
    assert reference_of(tmp_path) == found
    assert reference_of(tmp_path / "elsewhere") == Reference("4.48.0")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        (Reference("4.49.0"), "The reference is the original on 4.49.0."),
        (
            Reference("4.48.0", found=True),
            "The reference is the original on 4.48.0, the oldest locked release on which the unmodified folder loads "
            "and repeats itself.",
        ),
        (
            Reference("4.53.3", found=True, failed={"4.9.0": "ImportError: a", "4.48.0": "ImportError: b"}),
            "The reference is the original on 4.53.3, the oldest locked release on which the unmodified folder loads "
            "and repeats itself. Older ones are left out; 4.48.0 fails (ImportError: b).",
        ),
    ],
)
def test_reports_say_how_the_reference_came_about(reference, sentence):
    assert reference.sentence == sentence


def test_variants_are_no_rules_three_and_all():
    assert runs.VARIANTS == {"original": [], "minimal": ["loss-kwargs", "rope-default", "tied-keys"], "fixed": None}


@pytest.mark.parametrize(
    ("model", "revision", "name"),
    [
        ("miniature", None, "miniature"),
        ("org/name", None, "org--name"),
        ("org/name", "iter_0002000", "org--name@iter_0002000"),
        ("some/where/tiny", None, "tiny"),
        ("some/where/tiny/../tiny/", None, "tiny"),
    ],
)
def test_a_model_has_a_folder_of_its_own(outputs, tmp_path, monkeypatch, model, revision, name):
    (tmp_path / "some/where/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert runs.model_name(model, revision) == name
    assert runs.results_folder(model, revision) == outputs / name


def test_a_name_may_hold_a_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.model_and_revision("org/name") == ("org/name", None)
    assert runs.model_and_revision("org/name@main") == ("org/name", "main")
    assert runs.model_and_revision("org/name@refs@1") == ("org/name", "refs@1")
    assert runs.model_and_revision("org/name@") == ("org/name", None)
    (tmp_path / "tiny@home").mkdir()
    assert runs.model_and_revision("tiny@home") == ("tiny@home", None)  # a folder, whatever its name


def test_results_go_to_the_release(outputs, monkeypatch, tmp_path):
    release = ModuleType("transformers")
    release.__version__ = "5.2.0"
    monkeypatch.setitem(sys.modules, "transformers", release)
    assert runs.release_folder("org/name", "main") == outputs / "org--name@main" / "5.2.0"
    assert runs.release_folder("org/name") == outputs / "org--name" / "5.2.0"
    assert runs.release_folder("org/name", None, str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    for folder in ("outputs/org--name@main/5.2.0", "outputs/org--name/5.2.0", "a/b"):
        assert (tmp_path / folder).is_dir()
    assert runs.release_folder("org/name") == outputs / "org--name" / "5.2.0"  # it may be there


@pytest.fixture
def results(tmp_path):
    """Three finished runs and one that was begun, made in another order than theirs."""
    for run in ("5.10.4/fixed", "5.9.0/fixed", "5.9.0/minimal"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "run.json").touch()
    (tmp_path / "4.48.0/original").mkdir(parents=True)
    return tmp_path


def _names(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_runs_are_found_by_the_file_that_ends_them_and_in_order(results):
    assert _names(results, runs.find(results, "run.json")) == ["5.9.0/minimal", "5.9.0/fixed", "5.10.4/fixed"]
    assert runs.find(str(results), "eval.json") == []


def test_runs_are_found_by_name_in_order_and_once(results):
    named = ["5.10.4/fixed", "5.9.0/fixed", "5.10.4/fixed"]
    assert _names(results, runs.find(results, "run.json", named)) == ["5.9.0/fixed", "5.10.4/fixed"]
    assert runs.find(results, "run.json", []) == []


def test_a_run_that_is_named_must_be_finished(results):
    with pytest.raises(OpensciError) as caught:
        runs.find(results, "run.json", ["5.9.0/fixed", "4.48.0/original"])
    assert str(caught.value) == (
        f"{results}/4.48.0/original has no run.json: run `snakemake` first, which computes it."
    )


# ---------------------------------------------------------------- a run without an outcome of its own


def test_a_run_that_came_to_no_end_has_its_sentence_for_each_variant(outputs):
    asked = {"model": "org/name", "revision": "iter_1", "tf_version": "5.9.0"}
    failure.record_failure("eval.json", "It died.", asked)
    folder = outputs / "org--name@iter_1" / "5.9.0"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")} == {
        "minimal/eval.json",
        "fixed/eval.json",
    }
    assert json.loads((folder / "fixed" / "eval.json").read_text()) == {
        "model": "org/name",
        "revision": "iter_1",
        "commit": None,
        "variant": "fixed",
        "versions": {"transformers": "5.9.0"},
        "error": "It died.",
    }
    assert failure.failure_file(folder, "eval.json").read_text() == "It died.\n"
    assert (folder / "eval.json.failed").exists()


def test_a_run_of_no_model_named_is_the_miniature_s(outputs):
    failure.record_failure("run.json", "It died.", {"tf_version": "4.57.6"})
    folder = outputs / "miniature" / "4.57.6"
    assert sorted(path.name for path in folder.iterdir()) == ["fixed", "original", "run.json.failed"]


def test_variants_that_were_finished_before_keep_their_numbers(tmp_path):
    folder = tmp_path / "5.9.0"
    (folder / "minimal").mkdir(parents=True)
    (folder / "minimal" / "run.json").write_text('{"numbers": 1}')
    (folder / ".run.json").write_text('{"settings": {}, "done": ["minimal"]}')
    failure.record_failure("run.json", "It died.", {"tf_version": "5.9.0", "output_dir": str(folder)})
    assert (folder / "minimal" / "run.json").read_text() == '{"numbers": 1}'
    assert json.loads((folder / "fixed" / "run.json").read_text())["error"] == "It died."


def test_the_variants_asked_for_are_those_that_failed(tmp_path):
    asked = {"tf_version": "5.9.0", "output_dir": str(tmp_path), "variants": ["original"]}
    failure.record_failure("run.json", "It died.", asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "run.json.failed"]


@pytest.mark.parametrize("compiled", [True, False])
def test_features_that_were_not_checked_are_failures(tmp_path, compiled):
    asked = {"tf_version": "5.9.0", "output_dir": str(tmp_path / "5.9.0"), "compiled": compiled}
    failure.record_failure("compat.json", "It died.", asked)
    row = {"group": "weights", "feature": "the checks come to their end", "result": compat.FAILS, "seconds": 0.0}
    assert json.loads((tmp_path / "5.9.0" / "compat.json").read_text()) == {
        "tf_version": "5.9.0",
        "compiled": compiled,
        "results": [{"variant": variant, **row, "error": "It died."} for variant in runs.VARIANTS],
    }
    del asked["compiled"]
    failure.record_failure("compat.json", "It died.", asked)
    assert json.loads((tmp_path / "5.9.0" / "compat.json").read_text())["compiled"] is True
