"""Variants of a model folder: how they are made, and run one after the other."""

import json
import sys
from types import ModuleType

import pytest

from opensci_lib import project
from opensci_lib.download import Download
from opensci_lib.errors import OpensciError
from opensci_lib.runs import variants
from opensci_lib.runs.reference import Reference
from opensci_lib.runs.variants import prepared, run_each, variant_folder
from tests.hotfix.folder import make_folder


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


@pytest.fixture
def model(tmp_path):
    return make_folder(tmp_path / "tiny")


@pytest.fixture
def kernel(monkeypatch):
    """Return a function that puts a release, with names in its utils, and torch in place of a kernel's packages."""

    def make(version: str, *names: str) -> dict[str, ModuleType]:
        modules = {
            name: ModuleType(name)
            for name in (
                "transformers", "transformers.utils", "transformers.modeling_rope_utils",
                "torch", "accelerate", "accelerate.utils", "accelerate.utils.memory",
            )
        }  # fmt: skip
        package, utils, rope, torch = list(modules.values())[:4]
        package.__dict__.update(__version__=version, utils=utils, modeling_rope_utils=rope)
        utils.__dict__.update(dict.fromkeys(names, "kwargs"))
        rope.__dict__.update(ROPE_INIT_FUNCTIONS={"default": None})
        torch.__dict__.update(
            dtype="float32",
            cleared=0,
            get_default_dtype=lambda: torch.dtype,
            set_default_dtype=lambda dtype: torch.__dict__.update(dtype=dtype),
        )
        modules["accelerate.utils.memory"].clear_device_cache = lambda garbage_collection: torch.__dict__.update(
            cleared=torch.cleared + garbage_collection
        )
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return modules

    return make


def test_each_variant_is_its_rules(outputs, model):
    original, minimal, fixed = (variant_folder(str(model), variant) for variant in ("original", "minimal", "fixed"))
    assert (original, minimal, fixed) == tuple(outputs / "tiny" / name for name in ("original", "minimal", "fixed"))
    assert (original / "modeling_tiny.py").read_bytes() == (model / "modeling_tiny.py").read_bytes()
    records = [json.loads((folder / "hotfix.json").read_text()) for folder in (minimal, fixed)]
    assert records[0]["rules"] == ["loss-kwargs", "rope-default", "tied-keys"]
    assert "rules" not in records[1], "a rule that comes later would make the same folder another"
    assert not (original / "hotfix.json").exists()


def test_what_a_backend_runs_is_the_fixed_folder(outputs, model, kernel):
    kernel("5.2.0")
    work = Work()
    results = run_each(work, "run.json", str(model), None, ["vllm", "fixed"])
    assert list(results) == ["fixed", "vllm"]
    assert work.variants == ["fixed", "fixed"]
    assert results["vllm"] == outputs / "tiny" / "5.2.0" / "vllm"


def test_an_unknown_variant_is_refused_before_anything_is_done(outputs):
    with pytest.raises(OpensciError) as caught:
        variant_folder("org/name", "mended")
    assert str(caught.value) == "Unknown variant 'mended': choose one of original, minimal, fixed."
    assert not outputs.exists()


def test_the_original_is_prepared_with_the_shim_and_it_goes_again(outputs, model, kernel):
    utils = kernel("4.57.6", "TransformersKwargs")["transformers.utils"]
    with prepared(str(model), "original") as folder:
        assert folder == outputs / "tiny" / "original"
        assert utils.LossKwargs == "kwargs"
    assert not hasattr(utils, "LossKwargs")


@pytest.mark.parametrize("variant", ["minimal", "fixed"])
def test_the_others_are_prepared_without(outputs, model, kernel, variant):
    utils = kernel("4.57.6", "TransformersKwargs")["transformers.utils"]
    with prepared(str(model), variant) as folder:
        assert folder == outputs / "tiny" / variant
        assert not hasattr(utils, "LossKwargs")


def test_what_a_failed_load_left_is_put_right(outputs, model, kernel):
    """4.48 leaves torch's default dtype changed when a load fails midway; the next variant must not inherit it."""
    torch = kernel("4.57.6", "TransformersKwargs")["torch"]
    with pytest.raises(ZeroDivisionError), prepared(str(model), "original"):
        torch.set_default_dtype("bfloat16")
        raise ZeroDivisionError
    assert (torch.dtype, torch.cleared) == ("float32", 1)
    assert not hasattr(sys.modules["transformers.utils"], "LossKwargs")


@pytest.mark.parametrize("variant", ["original", "fixed"])
def test_the_revision_is_downloaded_to_a_folder_of_its_own(outputs, model, kernel, monkeypatch, variant):
    asked = []

    def from_the_hub(name, revision, local_dir):
        asked.append((name, revision, local_dir))
        return Download(name, revision, "a" * 40, str(model), 8)

    monkeypatch.setattr(variants, "download", from_the_hub)
    kernel("4.57.6", "TransformersKwargs")
    place = outputs / "org--name@iter_0002000"
    expected = model if variant == "original" else place / variant
    assert variant_folder("org/name", variant, "iter_0002000") == expected
    with prepared("org/name", variant, "iter_0002000") as folder:
        assert folder == expected
    assert asked == [("org/name", "iter_0002000", place / "original")] * 2


class Work:
    """Writes a record, or fails as it is told, and notes what it was asked."""

    def __init__(self, **failures):
        self.failures, self.asked = failures, []

    def __call__(self, folder, output, run):
        self.asked.append((folder.name, output, run))
        if error := self.failures.get(folder.name):
            raise error
        (output / "run.json").write_text(json.dumps(run))

    @property
    def variants(self):
        return [variant for variant, _, _ in self.asked]


def _record(place):
    return json.loads((place / "run.json").read_text())


@pytest.mark.parametrize(("release", "first"), [("4.57.6", "original"), ("5.2.0", "minimal")])
def test_those_meant_for_the_release_run_one_after_the_other(outputs, model, kernel, release, first):
    kernel(release, "TransformersKwargs")
    work, place = Work(), outputs / "tiny" / release
    assert run_each(work, "run.json", str(model)) == {first: place / first, "fixed": place / "fixed"}
    runs = [
        {"model": str(model), "revision": None, "commit": None, "variant": variant} for variant in (first, "fixed")
    ]
    assert work.asked == [(run["variant"], place / run["variant"], run) for run in runs]
    assert [_record(place / run["variant"]) for run in runs] == runs
    assert sorted(path.name for path in place.iterdir()) == sorted([first, "fixed"])  # and no trace of how it went


def test_a_run_knows_the_commit_that_was_downloaded(outputs, kernel):
    kernel("5.2.0")
    original = make_folder(outputs / "org--name@main" / "original")
    found = {"model": "org/name", "revision": "main", "commit": "c" * 40, "path": str(original), "weights_bytes": 8}
    (original / "download.json").write_text(json.dumps(found))
    work = Work()
    run_each(work, "run.json", "org/name", "main", ["fixed"])
    assert [run for _, _, run in work.asked] == [
        {"model": "org/name", "revision": "main", "commit": "c" * 40, "variant": "fixed"}
    ]


def test_variants_that_are_named_run_in_order_wherever_they_are_sent(outputs, model, kernel, tmp_path):
    kernel("4.57.6", "TransformersKwargs")
    work, there = Work(), tmp_path / "there"
    folders = run_each(work, "run.json", str(model), None, ["fixed", "original", "fixed"], there)
    assert work.variants == ["original", "fixed"]
    assert folders == {"original": there / "original", "fixed": there / "fixed"}


def test_a_variant_that_fails_is_an_outcome_and_the_others_go_on(outputs, model, kernel, capsys):
    kernel("5.2.0")
    work = Work(minimal=OpensciError("It does not load."))
    folders = run_each(work, "run.json", str(model))
    assert work.variants == ["minimal", "fixed"]
    assert _record(folders["minimal"]) == {
        "model": str(model), "revision": None, "commit": None, "variant": "minimal",
        "versions": {"transformers": "5.2.0"}, "error": "It does not load.",
    }  # fmt: skip
    assert "error" not in _record(folders["fixed"])
    assert capsys.readouterr().out == "minimal failed. It does not load.\n"


def test_what_all_variants_fail_of_is_raised_and_nothing_is_lost(outputs, model, kernel):
    kernel("5.2.0")
    folders = run_each(Work(), "run.json", str(model))
    before = [_record(folder) for folder in folders.values()]
    failing = Work(minimal=OpensciError("Unknown dtype."), fixed=OpensciError("Unknown dtype!"))
    with pytest.raises(OpensciError, match=r"^Unknown dtype\.$"):
        run_each(failing, "run.json", str(model))
    assert [_record(folder) for folder in folders.values()] == before


def test_the_shim_serves_no_release_from_5_on(outputs, model, kernel):
    kernel("5.2.0")
    folders = run_each(Work(), "run.json", str(model), None, ["original", "fixed"])
    assert _record(folders["original"])["error"].startswith(
        "The shim serves transformers 4.48 to 4.57 and this is 5.2"
    )


def test_on_its_reference_the_original_runs_and_needs_no_shim(outputs, model, kernel):
    kernel("5.2.0")
    (outputs / "tiny").mkdir(parents=True)
    Reference("5.2.0", found=True).save(outputs / "tiny" / "reference.json")
    folders = run_each(Work(), "run.json", str(model))
    assert list(folders) == ["original", "fixed"]
    assert "error" not in _record(folders["original"])


@pytest.mark.parametrize(
    ("settings", "variants_again"),
    [({"dtype": "float32"}, ["fixed"]), ({"dtype": "bfloat16"}, ["minimal", "fixed"])],
)
def test_a_call_that_was_killed_goes_on_where_its_settings_are_the_same(
    outputs, model, kernel, settings, variants_again
):
    kernel("5.2.0")
    killed = Work(fixed=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_each(killed, "run.json", str(model), dtype="float32")
    assert killed.variants == ["minimal", "fixed"]
    again = Work()
    folders = run_each(again, "run.json", str(model), **settings)
    assert again.variants == variants_again
    assert all((folder / "run.json").exists() for folder in folders.values())
    once_more = Work()
    run_each(once_more, "run.json", str(model), **settings)  # what ended well is done again when asked again
    assert once_more.variants == ["minimal", "fixed"]


def test_another_file_in_the_model_is_another_run(outputs, model, kernel):
    kernel("5.2.0")
    with pytest.raises(KeyboardInterrupt):
        run_each(Work(fixed=KeyboardInterrupt()), "run.json", str(model))
    (outputs / "tiny" / "original" / "generation_config.json").write_text("{}")
    again = Work()
    run_each(again, "run.json", str(model))
    assert again.variants == ["minimal", "fixed"]


def test_an_unknown_variant_among_others_is_refused_first(outputs, model, kernel):
    kernel("5.2.0")
    work = Work()
    with pytest.raises(OpensciError, match=r"^Unknown variant 'mended': choose some of original, minimal, fixed\.$"):
        run_each(work, "run.json", str(model), None, ["fixed", "mended"])
    assert work.asked == []
