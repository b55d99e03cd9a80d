"""The pipeline and its notebooks: what runs, what the data say, and what bad input gets."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*command, **options):
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [program, *map(str, command[1:])], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def results(run, tmp_path_factory):
    """A folder of results with the layout of `outputs/<model>`, for three releases."""
    folder = tmp_path_factory.mktemp("results")
    for tf_version, variant in [("4.48.0", "original"), ("5.2.0", "minimal"), ("5.2.0", "fixed")]:
        (folder / tf_version).mkdir(exist_ok=True)
        (folder / tf_version / variant).symlink_to(run(tf_version, variant).path)
    return folder


def test_the_default_run_covers_every_default_release():
    done = call("snakemake", "--dry-run", "--forceall", "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    planned = call("snakemake", "--summary").stdout
    for tf_version, variants in {
        "4.48.0": ["original", "fixed"], "4.49.0": ["original", "fixed"], "4.57.6": ["original", "fixed"],
        "5.0.0": ["minimal", "fixed"], "5.2.0": ["minimal", "fixed"], "5.23.0": ["minimal", "fixed"],
    }.items():  # fmt: skip
        for variant in variants:
            assert f"outputs/miniature/{tf_version}/{variant}/infer.html" in planned
    assert "outputs/miniature/summary.html" in planned


def test_the_command_line_changes_releases_and_model():
    config = ["--config", 'tf_versions=["5.12.1"]', "models=[org/name@iter_0002000, org/other]"]
    planned = call("snakemake", "--summary", *config).stdout
    assert "outputs/org--name@iter_0002000/5.12.1/fixed/infer.html" in planned
    assert "outputs/org--name@iter_0002000/4.48.0/original/infer.html" in planned  # the reference is always there
    assert "outputs/org--other/5.12.1/fixed/infer.html" in planned
    assert "5.23.0" not in planned


def test_switches_are_words_on_the_command_line():
    planned = call(
        "snakemake", "--summary", "--config", "models=org/name", "features=false", "keep_weights=false"
    ).stdout
    assert "outputs/org--name/5.23.0/fixed/infer.html" in planned
    assert "compat" not in planned.replace("compat.csv", "")
    assert "outputs/org--name/fixed\t" in planned  # the folder is an output of its own, to be removed


def test_summary_draws_its_verdicts_from_the_data(results, tmp_path):
    out = tmp_path / "summary.ipynb"
    done = call("papermill", "notebooks/summary.ipynb", out, "-p", "output_dir", results)
    assert done.returncode == 0, done.stderr
    with (results / "parity.csv").open() as file:
        rows = list(csv.DictReader(file))
    equal = {(row["tf_version"], row["variant"]): row["bitwise_equal"] for row in rows}
    assert equal == {
        ("4.48.0", "original"): "True",
        ("5.2.0", "minimal"): "False",
        ("5.2.0", "fixed"): "True",
    }
    text = out.read_text()
    assert "inv_freq holds" in text
    assert text.count('"image/png"') >= 4
    html = tmp_path / "summary.html"
    options = "--to html --embed-images --TemplateExporter.extra_template_basedirs=notebooks --template report"
    assert call("jupyter-nbconvert", *options.split(), out).returncode == 0
    assert "<script src=" not in html.read_text()
    assert "https://cdn" not in html.read_text()


def test_infer_runs_under_the_release_asked_for(miniature, tmp_path):
    """The notebook itself, on a local folder, through papermill and without `-k`."""
    out = tmp_path / "out" / "infer.ipynb"
    out.parent.mkdir()
    parameters = {"tf_version": "5.2.0", "model": str(miniature), "prompts": ["The capital of Japan is"]}
    done = call(
        "papermill", "notebooks/infer.ipynb", out, "-y", json.dumps({**parameters, "output_dir": str(out.parent)})
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((out.parent / "run.json").read_text())
    assert record["versions"]["transformers"] == "5.2.0"
    assert record["completions"][0].startswith(" Tokyo")
    assert record["top_tokens"][0][0]["token"] == " Tokyo"
    assert (out.parent / "capture.safetensors").exists()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"tf_version": "9.9.9"}, "4.48.0"),
        ({"tf_version": "5.2.0", "variant": "other"}, "choose one of original, minimal, fixed"),
        ({"tf_version": "5.2.0", "model": "not a model"}, "neither a folder, nor 'miniature', nor a Hub id"),
        ({"tf_version": "5.2.0", "model": "org/name"}, "can't be reached"),
    ],
)
def test_bad_parameters_get_one_sentence(parameters, sentence, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    out = tmp_path / "out.ipynb"
    done = call(
        "papermill", "--no-progress-bar", "notebooks/infer.ipynb", out, "-y", json.dumps(parameters), env=environment
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert sentence in errors[0]
    assert "Traceback" not in done.stderr


def test_infer_prints_release_and_completion(miniature):
    done = call(
        "opensci", "infer", "--model_path", miniature, "--tf_version", "4.57.6", "--prompt", "The opposite of hot is"
    )
    assert done.returncode == 0, done.stderr
    release, completion = done.stdout.strip("\n").split("\n")
    assert release == "transformers 4.57.6"
    assert completion.startswith(" cold")


def test_infer_on_an_unfixed_folder_says_what_to_do(miniature):
    done = call("opensci", "infer", "--model_path", miniature, "--tf_version", "5.2.0")
    assert done.returncode == 1
    assert "opensci hotfix" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
