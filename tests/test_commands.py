"""Every command of the README, and of the page on the pipeline, is run: here, in a fresh clone, or elsewhere."""

import re
import subprocess
from pathlib import Path

import pytest

from opensci_lib import kernels
from tests.hub import Hub, serve

ROOT = Path(__file__).parents[1]
PUBLISHED = "open-sci/open-sci-ref-v0.01-1.7b-nemotron-hq-1T-16384"
FRANCE = '--prompt "The capital of France is"'
#: What is run here, and what it says. Of the pipeline, its plan: the rules that it would follow last.
HERE = {
    f"uv run opensci download {PUBLISHED} --local_dir model": "model (commit c0ffee",
    "uv run opensci hotfix --src_dir model": "model_fixed: written",
    f"uv run opensci infer --model_path model_fixed --tf_version 5.23.0 {FRANCE}": "transformers 5.23.0\n Paris.\n",
    f"uv run opensci infer --model_path miniature --tf_version 4.48.0 {FRANCE}": "transformers 4.48.0\n Paris.\n",
    "opensci doctor": f"of {len(kernels.available())} locked releases are built",
    "uv run snakemake": "rule index:",
    f"uv run snakemake --config models={PUBLISHED}": f"outputs/{PUBLISHED.replace('/', '--')}/index.html",
    "uv run snakemake compat": "outputs/miniature/compatibility.html",
    "uv run snakemake evaluation --config models=ORG/NAME tasks=open-sci-0.01": "outputs/ORG--NAME/evaluation.html",
    "uv run snakemake docs": "rule docs:",
}
#: What takes minutes or does not end, or is no command before something is put in, and the test that runs it.
ELSEWHERE = {
    "uv run pytest": "test_commands.py::test_every_command_is_run",
    "uv run jupyter lab": "test_lab.py::test_every_locked_release_is_offered",
    "uv run papermill notebooks/infer.ipynb OUT.ipynb -p tf_version 5.2.0": (
        "test_pipeline.py::test_infer_runs_under_the_release_asked_for"
    ),
    "uv run snakemake prepare": "test_slurm.py::test_a_killed_job_is_run_again_and_nothing_else_is",
    "uv run snakemake --workflow-profile profiles/slurm": (
        "test_slurm.py::test_a_killed_job_is_run_again_and_nothing_else_is"
    ),
    "opensci check --model_path DIR --tf_version V": "test_check.py::test_each_fault_is_found_by_its_check",
    "opensci evaluate --model_path DIR --tf_version V": (
        "test_evaluate.py::test_the_command_prints_the_scores_and_keeps_the_items"
    ),
    "opensci prove --src_dir DIR": "test_prove.py::test_the_miniature_is_proven",
    "opensci bisect --model_path DIR": "test_bisect.py::test_the_miniature_as_published_stops_loading",
    "opensci publish --src_dir FIXED --dry_run": (
        "test_publish.py::test_a_dry_run_prints_what_is_sent_and_sends_nothing"
    ),
}


def blocks(language):
    """Return the README's and the other page's blocks of code in a language."""
    pages = "".join((ROOT / name).read_text() for name in ("README.md", "docs/pipeline.md"))
    return [block for named, block in re.findall(r"^```(\w*)\n(.*?)^```$", pages, re.M | re.S) if named == language]


def commands():
    """Return what is to be typed, without remarks: the lines of blocks, and those of the table of commands."""
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks("") for line in block.splitlines()]
    return [*lines, *re.findall(r"^\| `(opensci .*?)` \|", (ROOT / "README.md").read_text(), re.M)]


@pytest.fixture(scope="module")
def run(clone, miniature):
    """Return a function that types a line in the clone; what it downloads, it gets from here."""
    with serve(Hub(miniature, PUBLISHED, {"main": "c0ffee" + "0" * 34})) as address:
        variables = {**clone.variables, "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}

        def run(line):
            done = subprocess.run(
                ["bash", "-c", line], cwd=clone.folder, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield run


def test_every_command_is_run():
    assert sorted({*commands()}) == sorted({*HERE, *ELSEWHERE})
    for test in ELSEWHERE.values():
        file, name = test.split("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text()


@pytest.mark.kernel
def test_they_do_what_is_said_in_a_fresh_clone(run):
    for command in filter(HERE.get, commands()):
        line = command if command.startswith("uv run") else f"uv run {command}"
        assert HERE[command] in run(f"{line} --dry-run" if "snakemake" in line else line), command
    [python] = blocks("python")
    example = f"""{python}
words = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**words, max_new_tokens=2)[0]))
"""
    assert run(f"environments/transformers-5.23.0/bin/python -c '{example}'") == "The capital of France is Paris.\n"
