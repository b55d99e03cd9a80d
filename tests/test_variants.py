"""Names of models and variants, and what they stand for."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from opensci_lib import project, variants
from opensci_lib.download import Download
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import all_rules
from opensci_lib.variants import (
    VARIANTS,
    model_and_revision,
    model_folder,
    model_name,
    prepare,
    provenance,
    releases_and_variants,
    run_folder,
    variant_folder,
)
from tests.hotfix.folder import make_folder


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


@pytest.fixture
def model(tmp_path):
    return make_folder(tmp_path / "tiny")


@pytest.fixture
def transformers(monkeypatch):
    """Return a function that puts a module in place of transformers: a release, and the names in its utils."""

    def make(version: str, *names: str) -> ModuleType:
        modules = {
            name: ModuleType(name)
            for name in ("transformers", "transformers.utils", "transformers.modeling_rope_utils")
        }
        package, utils, rope = modules.values()
        package.__dict__.update(__version__=version, utils=utils, modeling_rope_utils=rope)
        utils.__dict__.update(dict.fromkeys(names, "kwargs"))
        rope.__dict__.update(ROPE_INIT_FUNCTIONS={"default": None})
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return utils

    return make


def test_the_original_runs_on_4_and_minimal_on_5_and_fixed_on_all():
    assert releases_and_variants(["4.48.0", "5.2.0", "4.57.6", "5.0.0"]) == [
        ("4.48.0", "original"),
        ("4.48.0", "fixed"),
        ("5.2.0", "minimal"),
        ("5.2.0", "fixed"),
        ("4.57.6", "original"),
        ("4.57.6", "fixed"),
        ("5.0.0", "minimal"),
        ("5.0.0", "fixed"),
    ]


def test_a_release_named_twice_runs_once():
    assert releases_and_variants(["5.4.0", "5.4.0"]) == [("5.4.0", "minimal"), ("5.4.0", "fixed")]


def test_variants_are_no_rules_three_and_all():
    assert VARIANTS == {"original": [], "minimal": ["loss-kwargs", "rope-default", "tied-keys"], "fixed": None}


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
    assert model_name(model, revision) == name
    assert model_folder(model, revision) == outputs / name


def test_a_name_may_hold_a_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_and_revision("org/name") == ("org/name", None)
    assert model_and_revision("org/name@main") == ("org/name", "main")
    assert model_and_revision("org/name@refs@1") == ("org/name", "refs@1")
    assert model_and_revision("org/name@") == ("org/name", None)
    (tmp_path / "tiny@home").mkdir()
    assert model_and_revision("tiny@home") == ("tiny@home", None)  # a folder, whatever its name


def test_each_variant_is_its_rules(outputs, model):
    original, minimal, fixed = (variant_folder(str(model), variant) for variant in ("original", "minimal", "fixed"))
    assert (original, minimal, fixed) == tuple(outputs / "tiny" / name for name in ("original", "minimal", "fixed"))
    assert (original / "modeling_tiny.py").read_bytes() == (model / "modeling_tiny.py").read_bytes()
    applied = [json.loads((folder / "hotfix.json").read_text())["rules"] for folder in (minimal, fixed)]
    assert applied[0] == ["loss-kwargs", "rope-default", "tied-keys"]
    assert applied[1] == [rule.id for rule in all_rules()]
    assert not (original / "hotfix.json").exists()


def test_an_unknown_variant_is_refused_before_anything_is_done(outputs):
    with pytest.raises(OpensciError) as caught:
        variant_folder("org/name", "mended")
    assert str(caught.value) == "Unknown variant 'mended': choose one of original, minimal, fixed."
    assert not outputs.exists()


def test_the_original_is_prepared_with_the_shim(outputs, model, transformers):
    utils = transformers("4.57.6", "TransformersKwargs")
    assert prepare(str(model), "original") == outputs / "tiny" / "original"
    assert utils.LossKwargs == "kwargs"


@pytest.mark.parametrize("variant", ["minimal", "fixed"])
def test_the_others_are_prepared_without(outputs, model, transformers, variant):
    utils = transformers("4.57.6", "TransformersKwargs")
    assert prepare(str(model), variant) == outputs / "tiny" / variant
    assert not hasattr(utils, "LossKwargs")


def test_provenance_is_what_was_downloaded(outputs, model):
    """No commit where nothing came from the Hub, and the recorded one where something did."""
    assert provenance(str(model), None, "fixed") == {
        "model": str(model), "revision": None, "commit": None, "variant": "fixed",
    }  # fmt: skip
    found = {"model": "org/name", "revision": "main", "commit": "c" * 40, "path": "there", "weights_bytes": 1}
    (outputs / "org--name@main" / "original").mkdir(parents=True)
    (outputs / "org--name@main" / "original" / "download.json").write_text(json.dumps(found))
    assert provenance("org/name", "main", "minimal") == {
        "model": "org/name", "revision": "main", "commit": "c" * 40, "variant": "minimal",
    }  # fmt: skip


def test_results_go_to_the_release_and_the_variant(outputs, transformers, tmp_path):
    transformers("5.2.0")
    assert run_folder("org/name", "main", "fixed") == outputs / "org--name@main" / "5.2.0" / "fixed"
    assert run_folder("org/name", None) == outputs / "org--name" / "5.2.0"
    assert run_folder("org/name", None, "fixed", str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    for folder in ("outputs/org--name@main/5.2.0/fixed", "outputs/org--name/5.2.0", "a/b"):
        assert (tmp_path / folder).is_dir()
    assert run_folder("org/name", None) == Path(outputs / "org--name" / "5.2.0")  # it may be there


@pytest.mark.parametrize("variant", ["original", "fixed"])
def test_the_revision_is_downloaded_to_a_folder_of_its_own(outputs, model, transformers, monkeypatch, variant):
    asked = []

    def from_the_hub(name, revision, local_dir):
        asked.append((name, revision, local_dir))
        return Download(name, revision, "a" * 40, str(model), 8)

    monkeypatch.setattr(variants, "download", from_the_hub)
    transformers("4.57.6", "TransformersKwargs")
    place = outputs / "org--name@iter_0002000"
    expected = model if variant == "original" else place / variant
    assert variant_folder("org/name", variant, "iter_0002000") == expected
    assert prepare("org/name", variant, "iter_0002000") == expected
    assert asked == [("org/name", "iter_0002000", place / "original")] * 2
