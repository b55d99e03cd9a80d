"""The pipeline and its notebooks: what runs, what the data say, and what bad input gets."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from snakemake_executor_plugin_slurm.utils import set_gres_string

from opensci_lib import kernels
from opensci_lib.reports import figures, findings
from opensci_lib.reports.compare import parity
from opensci_lib.runs.capture import CaptureWriter
from tests.hand_made import make_run, tensors
from tests.notebook import tables, titles

ROOT = Path(__file__).parents[1]


def call(*command, **options):
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [program, *map(str, command[1:])], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


def test_the_default_run_covers_every_default_release():
    done = call("snakemake", "--dry-run", "--forceall", "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    planned = call("snakemake", "--summary").stdout
    for tf_version in ("4.48.0", "4.49.0", "4.57.6", "5.0.0", "5.2.0", "5.23.0"):
        for notebook in ("infer", "evaluate", "compat"):
            assert f"outputs/miniature/{tf_version}/{notebook}.ipynb" in planned
    for report in ("summary", "evaluation", "compatibility"):
        assert f"outputs/miniature/{report}.html" in planned


def test_the_command_line_changes_releases_and_model():
    config = ["--config", 'tf_versions=["5.12.1"]', "models=[org/name@iter_0002000, org/other]"]
    planned = call("snakemake", "--summary", *config).stdout
    assert "outputs/org--name@iter_0002000/5.12.1/infer.ipynb" in planned
    assert "outputs/org--name@iter_0002000/4.48.0/infer.ipynb" in planned  # the reference is always there
    assert "outputs/org--other/5.12.1/infer.ipynb" in planned
    assert "5.23.0" not in planned


def test_what_is_older_than_the_reference_is_left_out_with_a_sentence():
    config = ["--config", "models=org/name", "reference=4.53.3", 'tf_versions=["4.48.0","4.49.0","5.12.1"]']
    done = call("snakemake", "--summary", *config)
    assert "outputs/org--name/4.53.3/infer.ipynb" in done.stdout
    assert "outputs/org--name/5.12.1/infer.ipynb" in done.stdout
    assert "outputs/org--name/4.4" not in done.stdout
    said = "org--name: 4.48.0, 4.49.0 left out, as older than the reference, 4.53.3."
    assert done.stderr.count(said) == 1


def test_a_reference_that_is_to_be_found_comes_before_the_runs():
    done = call("snakemake", "--dry-run", "--config", "models=org/name", "reference=auto", "compat=false")
    assert done.returncode == 0, done.stderr
    assert "opensci reference --src_dir outputs/org--name/original" in done.stdout
    assert "infer.ipynb" not in done.stdout


def test_a_reference_that_is_none_is_refused():
    done = call("snakemake", "--dry-run", "--config", "reference=newest")
    assert done.returncode == 1
    assert "reference is 'newest': say auto, or a release, such as 4.48.0." in done.stdout + done.stderr


def test_switches_are_words_on_the_command_line():
    planned = call(
        "snakemake", "--summary", "--config", "models=org/name", "compat=false", "keep_weights=false"
    ).stdout
    assert "outputs/org--name/5.23.0/infer.ipynb" in planned
    assert "compat" not in planned
    assert "outputs/org--name/fixed\t" in planned  # the folder is an output of its own, to be removed


@pytest.mark.parametrize(
    ("options", "gpus"),
    [(["--workflow-profile", "profiles/slurm"], 1), (["--set-resources", "evaluate_vllm:gpu=4"], 4)],
)
def test_the_gpus_of_a_job_are_as_many_processes_of_vllm(options, gpus):
    options = [*options, "--config", "backends=[vllm]", "tf_versions=[]"]
    planned = call("snakemake", "evaluation", "--dry-run", "--forceall", *options).stdout
    [job] = [job for job in planned.split("\n\n") if "\nrule evaluate_vllm:" in job]
    assert f"output: outputs/miniature/{kernels.available('vllm')[-1]}/evaluate-vllm.ipynb" in job
    assert re.search(r"resources: .*\bgpu=(\d+)", job)[1] == str(gpus)
    assert job.rstrip().endswith(f"-p tensor_parallel_size {gpus}")
    assert set_gres_string(SimpleNamespace(resources={"gpu": gpus})) == f" --gpus={gpus}"


def _hand_made_results(outputs):
    """Write four runs, and a fifth that failed.

    minimal parts at layer 0 on both prompts, and its first prompt ends in NaN; on 5.10.0 one logit of the longer
    prompt is off by 0.5, though no stage says so.
    """
    logits, longer = tensors()["logits"], tensors(5)["logits"]
    parted, parted_longer = tensors()["fingerprints"].copy(), tensors(5)["fingerprints"].copy()
    parted[1:, 2], parted_longer[1:, 1:] = -1, -1
    garbage = {"inv_freq": np.array([1e12, -56.25], np.float32)}
    lost, off = logits.copy(), longer.copy()
    lost[2, 0], off[4, 1] = np.nan, longer[4, 1] + 0.5
    wrong = (
        {"logits": lost, "fingerprints": parted, **garbage},
        {**tensors(5), "logits": -longer, "fingerprints": parted_longer, **garbage},
    )
    make_run(outputs, "5.10.0", "fixed", prompts=({}, {**tensors(5), "logits": off}), completions=[" A.", " B."])
    make_run(outputs, "5.9.0", "fixed", prompts=({}, tensors(5)))
    make_run(outputs, "5.9.0", "minimal", prompts=wrong, completions=[" Rome.", " the the"])
    make_run(outputs, prompts=({}, tensors(5)))
    failed = outputs / "5.10.0" / "minimal"
    failed.mkdir()
    record = {"variant": "minimal", "versions": {"transformers": "5.10.0"}, "error": "It does not load."}
    (failed / "run.json").write_text(json.dumps(record))
    return outputs


def test_the_summary_shows_another_engine_where_it_ran(tmp_path):
    results, out = _hand_made_results(tmp_path / "results"), tmp_path / "summary.ipynb"
    run = make_run(results, "5.19.0", "vllm", prompts=({}, tensors(5)))
    with CaptureWriter(run.path / "capture.safetensors", run.record["prompts"]) as writer:
        for prompt, of in enumerate((tensors(), tensors(5))):
            best = np.argsort(-of["logits"], axis=1)
            writer.add(f"{prompt}.token_ids", of["token_ids"])
            writer.add(f"{prompt}.surprisal", of["surprisal"] + 0.25 * prompt)
            writer.add(f"{prompt}.top_ids", best)
            writer.add(f"{prompt}.top_logprobs", np.zeros(best.shape))
    done = call("papermill", "notebooks/summary.ipynb", out, "-p", "output_dir", results)
    assert done.returncode == 0, done.stderr
    page = json.dumps(json.loads(out.read_text()), ensure_ascii=False)
    said = "**vllm** on 5.19.0 moves no log-probability of a prompt's token by more than 0.25 nats"
    assert said in page
    assert "Largest change of a log-probability: fixed 0.25 nats" in page
    assert (results / "answers.csv").exists()
    with (results / "parity.csv").open() as file:  # it has no logits to compare
        assert "vllm" not in {row["variant"] for row in csv.DictReader(file)}


def test_the_summary_says_what_the_captures_say(tmp_path):
    results, out = _hand_made_results(tmp_path / "results"), tmp_path / "summary.ipynb"
    done = call("papermill", "notebooks/summary.ipynb", out, "-p", "output_dir", results)
    assert done.returncode == 0, done.stderr
    with (results / "parity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [
        tuple(row[name] for name in ("tf_version", "variant", "prompt", "bitwise_equal", "max_abs_diff"))
        for row in rows
    ] == [
        ("4.48.0", "original", "0", "True", "0.0"), ("4.48.0", "original", "1", "True", "0.0"),
        ("5.9.0", "minimal", "0", "False", ""), ("5.9.0", "minimal", "1", "False", "8.0"),
        ("5.9.0", "fixed", "0", "True", "0.0"), ("5.9.0", "fixed", "1", "True", "0.0"),
        ("5.10.0", "minimal", "0", "False", ""), ("5.10.0", "minimal", "1", "False", ""),
        ("5.10.0", "fixed", "0", "True", "0.0"), ("5.10.0", "fixed", "1", "False", "0.5"),
    ]  # fmt: skip
    assert sum(1 for _ in (results / "positions.csv").open()) == 1 + 4 * (3 + 5)
    notebook = nbformat.read(out, 4)
    assert titles(notebook) == [
        "Releases whose logits are the reference's, bit for bit: original 1 of 1, minimal 0 of 2, fixed 1 of 2",
        "Largest logit difference: original 0, minimal 8, fixed 0.5",
        "Cosines of the rotary embedding, largest difference from the reference: original 0, minimal 0, fixed 0",
        "minimal on 5.9.0: 12 of 20 stage outputs differ from the reference",
    ]
    [verdict] = [output["data"]["text/markdown"] for output in notebook.cells[4].outputs]
    assert verdict == (
        "> The fixed folder computes the same logits on 1 of 2 releases, bit for bit; minimal differs on 2 of 2."
    )
    verdicts, parity, first, *answers, conditions = tables(notebook)
    cause = (
        "inv_freq holds [1e+12, -56.2, …] where [0.5, 0.25, …] belongs: "
        "the buffer was left as uninitialised memory after loading"
    )
    assert verdicts[0] == ["variant", "releases", "prompts", "verdict"]
    assert verdicts[1] == ["original", "4.48.0", "0, 1", "equal to the reference, bit for bit"]
    assert [row[:3] for row in verdicts[2:4]] == [["minimal", "5.9.0", "0"], ["minimal", "5.9.0", "1"]]
    assert verdicts[3][3] == (f"parts from the reference at layer 0, queries after RoPE, position 1: {cause}")
    assert verdicts[4] == ["minimal", "5.10.0", "0, 1", "failed: It does not load."]
    assert verdicts[5] == ["fixed", "5.9.0", "0, 1", "equal to the reference, bit for bit"]
    assert parity[0][:4] == ["transformers", "variant", "prompt", "largest |Δlogit|"]
    assert [row[:4] for row in parity[1:]] == [
        ["5.9.0", "minimal", "0", "NaN"], ["5.9.0", "minimal", "1", "8"],
        ["5.10.0", "minimal", "0", "NaN"], ["5.10.0", "minimal", "1", "NaN"],
        ["5.10.0", "fixed", "1", "0.5"],
    ]  # fmt: skip
    assert first == [
        ["variant", "releases", "logits", "stages compared", "first stage", "position (tokens)"],
        ["original", "4.48.0", "equal", "4", "", ""],
        ["minimal", "5.9.0", "differs", "4", "layer 0, queries after RoPE", "1"],
        ["fixed", "5.9.0", "equal", "4", "", ""],
        ["fixed", "5.10.0", "differs", "4", "", ""],
    ]
    assert answers[0][2] == ["minimal", "5.9.0", " Rome.", "' Paris'", "' Rome'", "2.5"]
    assert [table[-1][:3] for table in answers] == [["fixed", "5.10.0", " A."], ["fixed", "5.10.0", " B."]]
    assert conditions == [["run"], ["4.48.0 original"], ["5.9.0 minimal"], ["5.9.0 fixed"], ["5.10.0 fixed"]]


@pytest.mark.kernel
def test_real_runs_hold_all_that_the_summary_asks_for(run):
    """What a kernel writes can be drawn and counted; the numbers themselves are asserted on runs made by hand."""
    reference, *others = found = [run("4.48.0", "original"), run("5.2.0", "minimal"), run("5.2.0", "fixed")]
    table, positions = parity(reference, found)
    assert findings.equal_releases(table).endswith(": original 1 of 1, minimal 0 of 1, fixed 1 of 1")
    assert findings.verdicts(table)["verdict"].str.contains("inv_freq holds").any()
    assert findings.conditions(found)["dtype"].tolist() == ["float32"] * 3
    [(name, differences)] = findings.divergences(reference, others, 1).items()
    assert repr(figures.divergence_map(name, differences)).startswith("minimal on 5.2.0: ")
    drawn = [figures.logit_difference(positions, 1), figures.rope_difference(reference, found, 1)]
    assert all(repr(figure).endswith("fixed 0") for figure in drawn)


def test_infer_runs_under_the_release_asked_for(miniature, tmp_path):
    """The notebook itself, on a local folder, through papermill and without `-k`."""
    out = tmp_path / "out" / "infer.ipynb"
    out.parent.mkdir()
    parameters = {"tf_version": "5.2.0", "model": str(miniature), "prompts": ["The capital of Japan is"]}
    done = call(
        "papermill", "notebooks/infer.ipynb", out, "-y", json.dumps({**parameters, "output_dir": str(out.parent)})
    )
    assert done.returncode == 0, done.stderr
    minimal, record = (
        json.loads((out.parent / variant / "run.json").read_text()) for variant in ("minimal", "fixed")
    )
    assert minimal["completions"] != record["completions"]
    assert minimal["machine"]["peak_memory_of"] in ("run", "process")
    assert record["versions"]["transformers"] == "5.2.0"
    assert record["completions"][0].startswith(" Tokyo")
    assert record["top_tokens"][0][0]["token"] == " Tokyo"
    assert (out.parent / "fixed" / "capture.safetensors").exists()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"tf_version": "9.9.9"}, "4.48.0"),
        ({"tf_version": "5.2.0", "variants": ["other"]}, "choose some of original, minimal, fixed"),
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


def test_weights_that_a_release_leaves_empty_are_named(variant_folder):
    folder = variant_folder("minimal")
    done = call("opensci", "infer", "--model_path", folder, "--tf_version", "5.3.0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: transformers 5.3.0 leaves lm_head.weight of {folder} without values: "
        f"run `opensci hotfix --src_dir {folder}` and load the fixed folder."
    )
