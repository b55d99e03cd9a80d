"""The checks of features: that they pass where they should, fail where they should, and who is the judge."""

import json

import pytest

from opensci_lib import compat, figures, kernels

_CHECK = """
import json, sys
from dataclasses import asdict
from opensci_lib import compat

folder, reference, basic, output = sys.argv[1:]
rows = compat.check(folder, reference, basic=basic == "basic")
json.dump([asdict(row) for row in rows], open(output, "w"))
"""


@pytest.fixture
def checked(variant_folder, compat_reference, tmp_path):
    """Return a function that checks a variant under a release and gives {feature: row}."""

    def start(tf_version, variant, kind="basic"):
        output = tmp_path / "rows.json"
        assert (
            kernels.run(tf_version, "-c", _CHECK, variant_folder(variant), compat_reference, kind, output).returncode
            == 0
        )
        return {f"{row['group']}: {row['feature']}": row for row in json.loads(output.read_text())}

    return start


# Offloading moves tensors to a GPU and back; without one native models have no such cache either.
OFFLOADED = "generation: cache_implementation offloaded"
LATER = {
    "forward: sequences packed into a row",
    "training: gradient checkpointing of every second layer",
    "attention: attention chosen anew after loading",
}


@pytest.mark.parametrize(("tf_version", "missing"), [("4.48.0", {OFFLOADED, *LATER}), ("5.23.0", {OFFLOADED})])
def test_the_fixed_folder_has_every_feature_of_the_release(checked, tf_version, missing):
    rows = checked(tf_version, "fixed", "all")
    assert len(rows) == len({row["feature"] + row["group"] for row in rows.values()}) > 60
    assert {row["group"] for row in rows.values()} == set(compat.GROUPS)
    wanting = {name: row["error"] for name, row in rows.items() if row["result"] != compat.OK}
    assert set(wanting) <= missing, wanting
    assert all(rows[name]["result"] == compat.UNSUPPORTED for name in wanting)


def test_the_unmodified_folder_fails_where_it_does_not_load(checked):
    rows = checked("5.2.0", "original")
    assert {row["result"] for row in rows.values()} == {compat.FAILS}
    assert all("LossKwargs" in row["error"] for row in rows.values())


def test_uninitialised_memory_is_seen(checked):
    rows = checked("5.2.0", "minimal")
    assert rows["auto: AutoModelForCausalLM"]["result"] == compat.OK
    assert rows["rope: default"]["result"] == compat.FAILS
    assert "inv_freq is off" in rows["rope: default"]["error"]
    for dtype in ("float32", "bfloat16"):
        assert rows[f"logits: {dtype}, SDPA, as on 4.48.0"]["result"] == compat.FAILS


def test_overwritten_weights_are_seen(checked):
    rows = checked("5.0.0", "minimal")
    error = rows["weights: every tensor as in the checkpoint, no key missing or left over"]["error"]
    assert "tensors unlike the checkpoint" in error


_JUDGED = """
import json, sys, tempfile
from dataclasses import asdict
from opensci_lib import compat
from opensci_lib.compat.case import expect

def native_only(case): expect(case.native, "not for models with their own code")
def nobody(case): expect(False, "not on this release")
def broken(case): case.model.get_input_embeddings().weight.data.zero_(); case.model.train()
def unharmed(case): expect(not case.model.training and case.model.get_input_embeddings().weight.any(), "harmed")

features = [compat.Feature("judged", f.__name__, True, f) for f in (native_only, nobody, broken, unharmed)]
compat.all_features = lambda: features
json.dump([asdict(row) for row in compat.check(sys.argv[1], "unread")], open(sys.argv[2], "w"))
"""


def test_native_models_are_the_judges(variant_folder, tmp_path):
    output = tmp_path / "rows.json"
    assert kernels.run("5.23.0", "-c", _JUDGED, variant_folder("fixed"), output).returncode == 0
    rows = {row["feature"]: row for row in json.loads(output.read_text())}
    assert rows["native_only"]["result"] == compat.FAILS
    assert rows["nobody"]["result"] == compat.UNSUPPORTED
    assert "Llama: UnexpectedError: not on this release" in rows["nobody"]["error"]
    assert "Qwen3" in rows["nobody"]["error"]
    # A check may do what it likes to the model: the next one gets its own.
    assert rows["unharmed"]["result"] == compat.OK


def _write(path, tf_version, result):
    path.parent.mkdir()
    rows = {variant: [compat.Result("group", "feature", result, 0.1, "")] for variant in ("minimal", "fixed")}
    lines = [{"variant": variant, **vars(row)} for variant, [row] in rows.items()]
    path.write_text(json.dumps({"tf_version": tf_version, "torch": "2.13.0", "results": lines}))
    return path


def test_the_matrix_says_what_the_table_says(tmp_path):
    paths = [
        _write(tmp_path / "a" / "compat.json", "5.10.4", compat.FAILS),
        _write(tmp_path / "b" / "compat.json", "5.9.0", compat.OK),
        _write(tmp_path / "c" / "compat.json", "4.48.0", compat.UNSUPPORTED),
    ]
    table = compat.gather(paths)
    assert list(table["tf_version"].unique()) == ["4.48.0", "5.9.0", "5.10.4"]
    picture = figures.compat_matrix(table)
    [axes] = picture.axes
    assert picture.get_suptitle() == "1 features on 3 releases: 1 checks fail, 1 unsupported"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4.48.0", "5.9.0", "5.10.4"]
