"""Many checkpoints on one page: what is stacked, drawn and linked."""

import pandas as pd
import pytest

from opensci_lib import figures
from opensci_lib.errors import OpensciError
from opensci_lib.family import find_models, gather, label
from tests.test_pipeline import call

CHECKPOINTS = ["org--large@iter_0002000", "org--large@iter_0004000", "org--small"]


@pytest.fixture
def outputs(tmp_path):
    """Results of three checkpoints on two releases; the last one's fixed folder is not equal on 5.10.0."""
    for number, name in enumerate(CHECKPOINTS):
        (tmp_path / name).mkdir()
        parity, scores = [], []
        for release, variant, equal in (
            ("4.48.0", "original", True), ("4.48.0", "fixed", True),
            ("5.10.0", "minimal", False), ("5.10.0", "fixed", number != 2),
        ):  # fmt: skip
            run = {"tf_version": release, "variant": variant}
            for prompt in (0, 1):  # the first prompt is too short to show a difference
                same = equal or prompt == 0
                differences = {"max_abs_diff": 0.0 if same else 0.5, "bitwise_equal": same, "top1_agreement": 1.0}
                parity.append({**run, "prompt": prompt, **differences})
            scores.append({**run, "task": "facts", "metric": "accuracy", "score": 0.5 if equal else 0.25})
        pd.DataFrame(parity).to_csv(tmp_path / name / "parity.csv", index=False)
        pd.DataFrame(scores).to_csv(tmp_path / name / "evaluation.csv", index=False)
    return tmp_path


def test_a_row_says_its_model_and_revision(outputs):
    folders = find_models(outputs)
    assert [folder.name for folder in folders] == CHECKPOINTS
    table = gather(folders[::-1], "parity.csv")
    assert list(table.columns[:2]) == ["model", "revision"]
    assert list(dict.fromkeys(zip(table["model"], table["revision"], strict=True))) == [
        ("org--small", ""), ("org--large", "iter_0004000"), ("org--large", "iter_0002000"),
    ]  # fmt: skip
    assert set(table["tf_version"]) == {"4.48.0", "5.10.0"}
    assert [label("org--large", "iter_0002000"), label("org--small", "")] == ["large iter_0002000", "small"]


def test_a_checkpoint_without_results_is_named(outputs):
    (outputs / CHECKPOINTS[1] / "parity.csv").unlink()
    with pytest.raises(OpensciError, match=r"iter_0004000 holds no parity\.csv: run `snakemake"):
        gather([outputs / name for name in CHECKPOINTS], "parity.csv")


def test_pictures_count_what_the_data_say(outputs):
    folders = find_models(outputs)
    picture = figures.family_parity(gather(folders, "parity.csv"))
    assert "3 checkpoints" in picture.get_suptitle()
    assert "original 3 of 3, minimal 0 of 3, fixed 5 of 6" in picture.get_suptitle()
    scores = figures.family_scores(gather(folders, "evaluation.csv")).get_suptitle()
    assert scores.endswith("original 3 of 3, minimal 0 of 3, fixed 2 of 3")


def test_the_notebook_links_each_checkpoint(outputs):
    out = outputs / "family.ipynb"
    done = call(
        "papermill", "notebooks/family.ipynb", out, "-y", f"output_dirs: {[str(p) for p in find_models(outputs)]}"
    )
    assert done.returncode == 0, done.stderr
    assert all(f'href=\\"{name}/index.html\\"' in out.read_text() for name in CHECKPOINTS)
    assert len(pd.read_csv(outputs / "family.csv")) == 3 * 4 * 2
    assert len(pd.read_csv(outputs / "family_scores.csv")) == 3 * 4
    assert (outputs / "family.png").exists()


def test_several_models_get_a_page_of_their_own():
    target = "outputs/family.html"
    assert (
        target in call("snakemake", "--summary", "--config", "models=[org/a@iter_0002000, org/a@iter_0004000]").stdout
    )
    assert target not in call("snakemake", "--summary", "--config", "models=org/a").stdout
