"""Many checkpoints on one page: what is stacked, drawn and linked."""

import math
import shutil

import nbformat
import pandas as pd
import pytest

from opensci_lib.errors import OpensciError
from opensci_lib.reports.family import find_models, gather, label
from tests.notebook import tables, titles
from tests.test_pipeline import call

CHECKPOINTS = ["org--large@iter_0002000", "org--large@iter_0004000", "org--small"]


@pytest.fixture
def outputs(tmp_path):
    """Results of three checkpoints on two releases.

    The fixed folder of the last one is not equal on 5.10.0, and the second one was never run there as minimal.
    """
    for number, name in enumerate(CHECKPOINTS):
        (tmp_path / name).mkdir()
        parity, scores = [], []
        for release, variant, equal in (
            ("4.48.0", "original", True), ("4.48.0", "fixed", True),
            ("5.10.0", "minimal", False), ("5.10.0", "fixed", number != 2),
        ):  # fmt: skip
            if number == 1 and variant == "minimal":
                continue
            run = {"tf_version": release, "variant": variant}
            for prompt in (0, 1):  # the first prompt is too short to show a difference
                same = equal or prompt == 0
                off = math.nan if variant == "minimal" else 0.5
                differences = {"max_abs_diff": 0.0 if same else off, "bitwise_equal": same, "top1_agreement": 1.0}
                parity.append({**run, "prompt": prompt, **differences, "top1_token": "null"})
            score = math.nan if variant == "minimal" else 0.5 if equal else 0.25
            scores.append({**run, "task": "facts", "metric": "accuracy", "score": score, "reference": 0.5})
        pd.DataFrame(parity).to_csv(tmp_path / name / "parity.csv", index=False)
        pd.DataFrame(scores).to_csv(tmp_path / name / "evaluation.csv", index=False)
    return tmp_path


def test_models_are_the_folders_with_results(outputs):
    (outputs / "org--alone").mkdir()
    (outputs / "evaluation.csv").write_text("")
    assert find_models(outputs) == [outputs / name for name in CHECKPOINTS]


def test_a_row_says_its_model_and_revision(outputs):
    table = gather([outputs / CHECKPOINTS[2], str(outputs / CHECKPOINTS[1])], "parity.csv")
    assert list(table.columns) == [
        "model", "revision", "tf_version", "variant", "prompt", "max_abs_diff", "bitwise_equal", "top1_agreement",
        "top1_token",
    ]  # fmt: skip
    assert table.index.tolist() == list(range(14))
    rows = table[["model", "revision", "tf_version", "variant", "prompt", "bitwise_equal"]].to_numpy().tolist()
    assert rows[5] == ["org--small", "", "5.10.0", "minimal", 1, False]
    assert rows[13] == ["org--large", "iter_0004000", "5.10.0", "fixed", 1, True]
    assert math.isnan(table["max_abs_diff"][5])
    assert table["max_abs_diff"][7] == 0.5
    assert table["bitwise_equal"].dtype == bool


def test_a_token_that_reads_like_a_missing_value_is_kept(outputs):
    assert set(gather([outputs / CHECKPOINTS[0]], "parity.csv")["top1_token"]) == {"null"}


@pytest.mark.parametrize(
    ("model", "revision", "name"),
    [("org--large", "iter_0002000", "large iter_0002000"), ("org--small", "", "small"), ("folder", "", "folder")],
)
def test_a_checkpoint_is_called_by_its_name_and_revision(model, revision, name):
    assert label(model, revision) == name


def test_a_checkpoint_without_results_is_named(outputs):
    folder = outputs / CHECKPOINTS[1]
    (folder / "parity.csv").unlink()
    with pytest.raises(OpensciError) as error:
        gather([outputs / name for name in CHECKPOINTS], "parity.csv")
    assert str(error.value) == f"{folder} holds no parity.csv: run `snakemake {folder}/index.html` first."


def test_the_notebook_says_what_the_tables_say(outputs):
    out = outputs / "family.ipynb"
    shutil.copytree(outputs / CHECKPOINTS[0], outputs / "not asked for")
    folders = [str(outputs / name) for name in CHECKPOINTS]
    done = call("papermill", "notebooks/family.ipynb", out, "-y", f"output_dirs: {folders}")
    assert done.returncode == 0, done.stderr
    assert all(f'href=\\"{name}/index.html\\"' in out.read_text() for name in CHECKPOINTS)
    stacked = pd.read_csv(outputs / "family.csv", keep_default_na=False)
    assert stacked["model"].tolist() == ["org--large"] * 14 + ["org--small"] * 8
    assert stacked["revision"].tolist() == ["iter_0002000"] * 8 + ["iter_0004000"] * 6 + [""] * 8
    assert len(pd.read_csv(outputs / "family_scores.csv")) == 11
    assert (outputs / "family.png").exists()
    notebook = nbformat.read(out, 4)
    assert titles(notebook) == [
        "3 checkpoints; runs with their reference's logits, bit for bit: "
        "original 3 of 3, minimal 0 of 2, fixed 5 of 6",
        "Scores that are the original's on every release evaluated: original 3 of 3, minimal 0 of 2, fixed 2 of 3",
    ]
    parity, scores = tables(notebook)
    assert parity == [
        ["model", "revision", "variant", "releases", "logits", "largest |Δlogit|", "same top token"],
        ["org--large", "iter_0002000", "original", "1", "equal", "0", "100 %"],
        ["org--large", "iter_0002000", "fixed", "2", "equal", "0", "100 %"],
        ["org--large", "iter_0002000", "minimal", "1", "differs", "NaN", "100 %"],
        ["org--large", "iter_0004000", "original", "1", "equal", "0", "100 %"],
        ["org--large", "iter_0004000", "fixed", "2", "equal", "0", "100 %"],
        ["org--small", "", "original", "1", "equal", "0", "100 %"],
        ["org--small", "", "fixed", "2", "differs", "0.5", "100 %"],
        ["org--small", "", "minimal", "1", "differs", "NaN", "100 %"],
    ]
    assert scores[0] == [
        "task", "metric", "model", "revision", "variant", "releases", "lowest", "highest", "scores",
    ]  # fmt: skip
    assert [row[2:] for row in scores[-3:]] == [
        ["org--small", "", "original", "1", "0.5", "0.5", "equal"],
        ["org--small", "", "fixed", "2", "0.25", "0.5", "differs"],
        ["org--small", "", "minimal", "1", "NaN", "NaN", "differs"],
    ]


@pytest.mark.parametrize(
    ("models", "planned"), [("[org/a@iter_0002000, org/a@iter_0004000]", True), ("org/a", False)]
)
def test_several_models_get_a_page_of_their_own(models, planned):
    done = call("snakemake", "--summary", "--config", f"models={models}")
    assert done.returncode == 0, done.stderr
    assert "outputs/org--a" in done.stdout
    assert ("outputs/family.html" in done.stdout) == planned
