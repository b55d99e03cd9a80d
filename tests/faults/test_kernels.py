"""A kernel that dies, hangs or is interrupted: a sentence, the rest goes on, and no process is left."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from opensci_lib.runs.failure import record_failure
from tests import tally
from tests.faults.disturbed import command, descendants, finish, gone, killed, sentence
from tests.hand_made import make_run

DIED = "died while it ran the notebook, most often because memory ran out: take a smaller model or batch"


@pytest.fixture
def notebook(tmp_path):
    """Return a function that writes a notebook that records runs as infer.ipynb does, of one cell."""

    def write(code: str, record: str = "run.json") -> Path:
        parameters = "tf_version = None\nmodel: str = None\nvariants: list[str] = None\noutput_dir: str = None"
        cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
        kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
        metadata = {"kernelspec": kernelspec, "opensci": {"record": record}}
        made = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)], metadata=metadata)
        nbformat.write(made, tmp_path / "in.ipynb")
        return tmp_path / "in.ipynb"

    return write


def papermill(notebook: Path, *options: object) -> list[str]:
    return command("papermill", "--no-progress-bar", notebook, notebook.with_name("out.ipynb"), *options)


def results(tmp_path: Path) -> list[object]:
    values = {"model": "miniature", "variants": ["minimal", "fixed"], "output_dir": str(tmp_path / "5.9.0")}
    return ["-y", json.dumps(values)]


#: How the system ends a process for its memory: the same signal, from the process itself.
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_a_kernel_that_is_killed_for_memory_is_an_outcome(notebook, tmp_path):
    with tally.case("a kernel killed for memory"):
        said = sentence(papermill(notebook(KILLED), *results(tmp_path)))
        assert DIED in said
        for variant in ("minimal", "fixed"):
            record = json.loads((tmp_path / "5.9.0" / variant / "run.json").read_text())
            assert record["error"] == said
            assert record["variant"] == variant
        assert (tmp_path / "5.9.0" / "run.json.failed").read_text() == f"{said}\n"


def test_a_kernel_that_dies_while_it_starts_is_an_outcome(notebook, tmp_path):
    kernel = tmp_path / "kernels" / "dies"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "dies", "language": "python"}))
    words = papermill(notebook("pass"), "-k", "dies", *results(tmp_path))
    with tally.case("a kernel killed while it starts"):
        said = sentence(words, env={**os.environ, "JUPYTER_PATH": str(tmp_path)})
        assert DIED in said
        assert json.loads((tmp_path / "5.9.0" / "fixed" / "run.json").read_text())["error"] == said


def test_features_whose_kernel_is_killed_are_failures_in_the_matrix(notebook, tmp_path):
    """Beside a release whose checks came to their end; the report is made, and says why."""
    with tally.case("a kernel killed for memory"):
        said = sentence(papermill(notebook(KILLED, "compat.json"), *results(tmp_path), "-p", "tf_version", "5.9.0"))
        assert (tmp_path / "5.9.0" / "compat.json.failed").read_text() == f"{said}\n"
        row = {"group": "rope", "feature": "turns", "result": "ok", "seconds": 1.0, "error": ""}
        rows = [{"variant": variant, **row} for variant in ("original", "minimal", "fixed")]
        (tmp_path / "5.8.1").mkdir()
        (tmp_path / "5.8.1" / "compat.json").write_text(json.dumps({"tf_version": "5.8.1", "results": rows}))
        out = tmp_path / "compatibility.ipynb"
        words = ["papermill", "--no-progress-bar", "notebooks/compatibility.ipynb", out, "-p", "output_dir", tmp_path]
        finish(command(*words))
        table = pd.read_csv(tmp_path / "compat.csv")
        assert list(zip(table["tf_version"], table["variant"], table["result"], strict=True)) == [
            *(("5.8.1", variant, "ok") for variant in ("original", "minimal", "fixed")),
            *(("5.9.0", variant, "fails") for variant in ("original", "minimal", "fixed")),
        ]
        assert set(table["error"].dropna()) == {said}
        assert "Of 2 checks of the fixed folder on 2 releases 1 failed" in out.read_text()
        assert said in out.read_text()


def test_a_summary_says_what_is_missing(tmp_path):
    outputs = tmp_path / "results"
    make_run(outputs)
    make_run(outputs, "5.9.0", "fixed")
    said = "The kernel transformers-5.10.0 died while it ran the notebook."
    record_failure("run.json", said, {"tf_version": "5.10.0", "output_dir": str(outputs / "5.10.0")})
    out = tmp_path / "summary.ipynb"
    with tally.case("a summary without a run"):
        finish(command("papermill", "--no-progress-bar", "notebooks/summary.ipynb", out, "-p", "output_dir", outputs))
        rows = (outputs / "parity.csv").read_text().splitlines()
        assert [row for row in rows if said in row and row.startswith(("5.10.0,minimal,", "5.10.0,fixed,"))]
        assert said in out.read_text()


def test_a_cell_that_hangs_has_a_limit(notebook, tmp_path):
    begun = time.monotonic()
    with tally.case("a hanging kernel"):
        words = papermill(notebook("import time; time.sleep(300)"), "--execution-timeout", 3, *results(tmp_path))
        said = sentence(words, of_the_kernel=True)
        assert said == (
            "A cell took more than 3 seconds under python3: find out what it waits for, or raise the limit "
            "(cell_timeout in config.yaml)."
        )
        assert time.monotonic() - begun < 120
        assert json.loads((tmp_path / "5.9.0" / "fixed" / "run.json").read_text())["error"] == said


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill"])
@pytest.mark.parametrize("seconds", [3, 8])
def test_no_kernel_is_left(notebook, tmp_path, sign, seconds):
    """Ctrl-C reaches papermill alone here; in a terminal the kernel gets it as well."""
    code = "import time\nwhile True:\n    try:\n        time.sleep(300)\n    except KeyboardInterrupt:\n        pass"
    with tally.case(f"{sign.name} of a run"):
        assert gone(killed(papermill(notebook(code)), seconds, sign), within=30)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_ctrl_c_in_a_terminal(notebook, sign):
    """The whole group gets the signal."""
    process = subprocess.Popen(
        papermill(notebook("import time; time.sleep(300)")), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with tally.case(f"{sign.name} of a group"):
        deadline = time.monotonic() + 30
        while not (children := descendants(process)) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        children = descendants(process)
        os.killpg(process.pid, sign)
        assert process.wait(60) != 0
        assert gone(children, within=30)
        assert not [one for one in children if psutil.pid_exists(one.pid)]
