"""The papermill engine, through papermill's own command line and through its Python interface."""

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from opensci_lib import kernels
from opensci_lib.errors import OpensciError

SHOW = """
import importlib.metadata, importlib.util
from pathlib import Path
from ipykernel.kernelapp import IPKernelApp

app = IPKernelApp.instance()
assert Path(app.connection_file).parent.is_dir()
torch = importlib.util.find_spec("torch") is not None
print(importlib.metadata.version("transformers") if torch else "driver", app.transport, app.connection_file)
"""


@pytest.fixture
def notebook(tmp_path):
    """Return a function that writes a notebook of a parameters cell, if any, and one more cell."""

    def write(parameters: str | None = None, code: str = SHOW, kernel: str = "python3") -> Path:
        cells = [new_code_cell(code)]
        if parameters is not None:
            cells.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
        metadata = {"kernelspec": kernelspec, "language_info": {"name": "python"}}
        nbformat.write(new_notebook(cells=cells, metadata=metadata), tmp_path / "in.ipynb")
        return tmp_path / "in.ipynb"

    return write


def run_papermill(notebook: Path, *options: str) -> tuple[subprocess.CompletedProcess, Path]:
    output = notebook.with_name("out.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, output, "--no-progress-bar", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False), output


def shown(output: Path) -> list[str]:
    """Return release, transport and connection file that the last cell printed."""
    return nbformat.read(output, as_version=4).cells[-1].outputs[0].text.split()


@pytest.mark.kernel
@pytest.mark.parametrize("release", ["4.48.0", "5.2.0"])
def test_the_parameter_picks_the_release_and_the_sockets_are_files_that_vanish(notebook, release):
    done, output = run_papermill(notebook("tf_version = None"), "-p", "tf_version", release)
    assert done.returncode == 0, done.stderr
    version, transport, connection_file = shown(output)
    assert (version, transport) == (release, "ipc")
    assert len(f"{connection_file}-ipc-5") < 100
    assert not Path(connection_file).parent.exists()
    assert nbformat.read(output, as_version=4).metadata.kernelspec.name == f"transformers-{release}"


@pytest.mark.kernel
def test_a_default_of_the_parameters_cell_picks_the_release(notebook):
    done, output = run_papermill(notebook('model = "miniature"\ntf_version = "5.2.0"  # the release'))
    assert done.returncode == 0, done.stderr
    assert shown(output)[0] == "5.2.0"


@pytest.mark.kernel
def test_an_explicit_kernel_may_agree_with_a_parameter_that_overrides_the_default(notebook):
    source = notebook('tf_version = "4.48.0"')
    done, output = run_papermill(source, "-p", "tf_version", "5.2.0", "-k", "transformers-5.2.0")
    assert done.returncode == 0, done.stderr
    assert shown(output)[0] == "5.2.0"


@pytest.mark.kernel
def test_none_means_the_notebooks_own_kernel(notebook):
    done, output = run_papermill(notebook("tf_version = None", kernel="transformers-5.2.0"))
    assert done.returncode == 0, done.stderr
    assert shown(output)[0] == "5.2.0"


def test_a_plain_notebook_runs_as_ever_but_over_ipc(notebook):
    done, output = run_papermill(notebook())
    assert done.returncode == 0, done.stderr
    assert shown(output)[:2] == ["driver", "ipc"]
    assert nbformat.read(output, as_version=4).metadata.kernelspec.name == "python3"


def test_a_failing_cell_is_papermills_own_error(notebook):
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        papermill.execute_notebook(notebook(code="1 / 0"), None, progress_bar=False)


@pytest.mark.parametrize("default", ["None", '"5.2.0"'])
def test_a_kernel_that_contradicts_the_release_stops_everything(notebook, default):
    source = notebook(f"tf_version = {default}")
    done, output = run_papermill(source, "-p", "tf_version", "5.2.0", "-k", "python3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: Kernel python3 contradicts tf_version 5.2.0: leave it out, or ask for transformers-5.2.0."
    )
    assert not output.exists()


def test_a_contradiction_through_python(notebook, tmp_path):
    source = notebook('tf_version = "5.2.0"')
    with pytest.raises(OpensciError, match="contradicts"):
        papermill.execute_notebook(source, tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False)
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize("release", ["9.9.9", "4.47.1", "4.48", "latest"])
def test_an_unknown_release_stops_everything(notebook, tmp_path, release):
    parameters = {"tf_version": float(release) if release == "4.48" else release}
    with pytest.raises(OpensciError, match=f"transformers {release} is not a release"):
        papermill.execute_notebook(notebook("tf_version = None"), tmp_path / "out.ipynb", parameters)
    assert not (tmp_path / "out.ipynb").exists()


def test_an_unknown_release_on_the_command_line(notebook):
    done, output = run_papermill(notebook("tf_version = None"), "-p", "tf_version", "9.9.9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: transformers 9.9.9 is not a release")
    assert "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.kernel
def test_the_environment_is_looked_after_before_a_run_and_not_to_prepare_one(notebook, monkeypatch):
    kernels.build("5.2.0")
    built = []
    monkeypatch.setattr(kernels, "build", lambda version, layer: built.append(version))
    source = notebook('tf_version = "5.2.0"', "pass")
    papermill.execute_notebook(source, None, prepare_only=True, progress_bar=False)
    assert built == []
    papermill.execute_notebook(source, None, progress_bar=False)
    assert built == ["5.2.0"]


def test_a_dead_kernel_is_one_sentence_with_papermills_status(notebook):
    done, _ = run_papermill(notebook(code="import os; os._exit(1)"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: The kernel python3 died")
    assert "Traceback" not in done.stderr
