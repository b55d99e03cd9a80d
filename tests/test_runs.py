"""What a run is: names, order, places."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from opensci_lib import project, runs
from opensci_lib.errors import OpensciError


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


def test_the_reference_is_a_run_that_takes_place():
    assert runs.REFERENCE == "4.48.0/original"
    assert runs.REFERENCE in runs.names([runs.REFERENCE_RELEASE])


def test_releases_are_numbers_and_come_once():
    assert runs.ascending(["5.10.0", "5.9.0", "4.57.6", "5.10.0", "4.6.0"]) == ["4.6.0", "4.57.6", "5.9.0", "5.10.0"]


def test_variants_have_an_order_and_come_once():
    assert runs.in_order(["fixed", "original", "minimal", "fixed"]) == ["original", "minimal", "fixed"]


def test_the_original_runs_on_4_and_minimal_on_5_and_fixed_on_all():
    assert runs.names(["4.48.0", "5.2.0", "5.2.0", "4.57.6"]) == [
        "4.48.0/original", "4.48.0/fixed", "5.2.0/minimal", "5.2.0/fixed", "4.57.6/original", "4.57.6/fixed",
    ]  # fmt: skip


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
