"""Which variants there are, where they go, and on which releases they run."""

import pytest

from opensci_lib import project
from opensci_lib.errors import OpensciError
from opensci_lib.variants import (
    VARIANTS,
    model_and_revision,
    model_folder,
    model_name,
    releases_and_variants,
    variant_folder,
)


def test_the_variants_and_their_rules():
    assert VARIANTS == {"original": [], "minimal": ["loss-kwargs", "rope-default", "tied-keys"], "fixed": None}


def test_the_original_runs_on_4_minimal_on_5_and_fixed_on_all():
    assert releases_and_variants(["4.48.0", "5.10.4", "4.48.0", "4.57.6"]) == [
        ("4.48.0", "original"),
        ("4.48.0", "fixed"),
        ("5.10.4", "minimal"),
        ("5.10.4", "fixed"),
        ("4.57.6", "original"),
        ("4.57.6", "fixed"),
    ]


def test_a_model_has_a_folder_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "a@b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_name("org/name") == "org--name"
    assert model_name("org/name", "iter_0002000") == "org--name@iter_0002000"
    assert model_name("miniature") == "miniature"
    assert model_name(f"{tmp_path}/a@b") == "a@b"
    assert model_folder("org/name", "main") == project.OUTPUTS / "org--name@main"


def test_a_revision_follows_an_at_sign_but_not_in_a_folders_name(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert model_and_revision("org/name@iter_0002000") == ("org/name", "iter_0002000")
    assert model_and_revision("org/name") == ("org/name", None)
    assert model_and_revision(f"{tmp_path}/a@b") == (f"{tmp_path}/a@b", None)


def test_an_unknown_variant_is_refused():
    with pytest.raises(OpensciError) as caught:
        variant_folder("miniature", "other")
    assert caught.value.message == "Unknown variant 'other': choose one of original, minimal, fixed."
