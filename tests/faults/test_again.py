"""The same again: two pipelines on one folder of results, two whole runs, and a run from its record alone."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from opensci_lib import project
from tests import tally
from tests.faults.disturbed import ROOT, command, finish

pytestmark = [pytest.mark.kernel, pytest.mark.long]


def pipeline(model: Path) -> list[str]:
    config = [f"models={model}", "tf_versions=[5.2.0]", "compat=false", "max_new_tokens=4"]
    return command("snakemake", f"outputs/{model.name}/summary.html", "--config", *config)


@pytest.fixture(scope="module")
def results(model):
    """What a pipeline leaves that was called a second time while it ran."""
    words = pipeline(model)
    with tally.case("pipelines at the same time"):
        first = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not list((ROOT / ".snakemake" / "locks").glob("*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        said = first.communicate(timeout=600)[1]
        assert first.returncode == 0, said
        assert second.returncode == 1
        # Which of the two depends on whether the first is already at its jobs.
        assert "cannot be locked" in second.stderr or "Incomplete files" in second.stderr
        assert "Traceback" not in second.stderr
    return project.OUTPUTS / model.name


def equal_runs(results: Path) -> dict[tuple[str, str], list[bool]]:
    table = pd.read_csv(results / "parity.csv", dtype={"tf_version": str})
    return {run: list(of["bitwise_equal"]) for run, of in table.groupby(["tf_version", "variant"])}


def test_two_pipelines_on_one_folder_of_results(results):
    """One works, the other is refused, and the numbers are those of one."""
    assert equal_runs(results) == {
        ("4.48.0", "original"): [True, True],
        ("4.48.0", "fixed"): [True, True],
        ("5.2.0", "minimal"): [False, False],
        ("5.2.0", "fixed"): [True, True],
    }


def test_a_whole_run_again_gives_the_same_table(model, results, tmp_path):
    """But for minimal, which computes with what lay in memory."""
    kept = shutil.copy(results / "parity.csv", tmp_path)
    shutil.rmtree(results)
    with tally.case("a whole run again"):
        finish(pipeline(model))
        before, after = (
            [line for line in Path(path).read_text().splitlines() if ",minimal," not in line]
            for path in (kept, results / "parity.csv")
        )
        assert len(before) == 1 + 6
        assert after == before


def test_a_record_is_enough_to_run_the_same_again(results, tmp_path):
    written = results / "5.2.0" / "fixed"
    record = json.loads((written / "run.json").read_text())
    asked = {name: record[name] for name in ("model", "revision", "prompts")}
    asked |= {name: record["settings"][name] for name in SETTINGS}
    asked |= {"tf_version": record["versions"]["transformers"], "variants": [record["variant"]]}
    with tally.case("a run from its record"):
        words = ["papermill", "--no-progress-bar", "notebooks/infer.ipynb", tmp_path / "out.ipynb", "-y"]
        threads = {"OMP_NUM_THREADS": str(record["machine"]["torch_threads"])}  # sums over others round otherwise
        finish(command(*words, json.dumps({**asked, "output_dir": str(tmp_path)})), env={**os.environ, **threads})
        first, again = (load_file(folder / "capture.safetensors") for folder in (written, tmp_path / "fixed"))
        assert len(first) > 10
        assert again.keys() == first.keys()
        assert all(again[name].tobytes() == first[name].tobytes() for name in first)
        for name in ("completions", "top_tokens", "settings"):
            assert json.loads((tmp_path / "fixed" / "run.json").read_text())[name] == record[name]


#: The notebook's parameters that a record keeps under the same names.
SETTINGS = ("dtype", "device", "attn_implementation", "max_new_tokens", "prefill_chunk_size")
