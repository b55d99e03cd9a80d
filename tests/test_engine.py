"""The papermill engine, through papermill's own command line and through its Python interface."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.iorw import load_notebook_node

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.kernels import engine
from tests.stand_in import StandIn

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


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """Two releases whose kernels are this Python, and say which they are."""
    releases = StandIn(tmp_path / "stand-in", monkeypatch)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "stand-in"))
    for release in ("4.48.0", "5.2.0"):
        releases.add(release, f'RELEASE={release} exec {sys.executable} "$@"')
    return releases


@pytest.mark.parametrize(
    ("default", "passed", "asked", "kernel"),
    [
        ('"4.48.0"', {"tf_version": "5.2.0"}, None, "transformers-5.2.0"),  # the parameter wins over the default
        ('"4.48.0"', {}, None, "transformers-4.48.0"),
        ('"4.48.0"  # the release', {"model": "miniature"}, None, "transformers-4.48.0"),
        ("None", {}, None, "own"),
        ('"4.48.0"', {"tf_version": None}, None, "own"),
        (None, {}, None, "own"),
        (None, {}, "another", "another"),
        ('"4.48.0"', {"tf_version": "5.2.0"}, "transformers-5.2.0", "transformers-5.2.0"),
        ('"4.48.0"', {}, "another", "another"),  # refused before it runs
    ],
)
def test_the_kernel_of_a_notebook(notebook, default, passed, asked, kernel):
    parameters = None if default is None else f'model = "miniature"\ntf_version = {default}'
    read = load_notebook_node(str(notebook(parameters, kernel="own")))
    read.metadata["papermill"] = {"parameters": passed}
    assert engine.TransformersEngine.nb_kernel_name(read, asked) == kernel


@pytest.mark.parametrize(
    ("backend", "passed", "kernel"),
    [
        ('"hf"', {}, "transformers-5.2.0"),
        ('"hf"', {"backend": "vllm"}, "vllm-5.2.0"),
        ('"vllm"', {}, "vllm-5.2.0"),
        ('"vllm"', {"backend": "hf"}, "transformers-5.2.0"),
        ("None", {}, "transformers-5.2.0"),
    ],
)
def test_the_backend_of_a_notebook_picks_the_engine(notebook, backend, passed, kernel):
    read = load_notebook_node(str(notebook(f'tf_version = "5.2.0"\nbackend = {backend}', kernel="own")))
    read.metadata["papermill"] = {"parameters": passed}
    assert engine.TransformersEngine.nb_kernel_name(read, None) == kernel


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ("vllm", "vLLM has no lock file with transformers 5.2.0: take another"),
        ("sglang", "There is no engine 'sglang': choose one of transformers, vllm."),
    ],
)
def test_a_backend_that_is_not_there_is_refused_before_anything_runs(notebook, releases, backend, sentence):
    source = notebook('tf_version = "5.2.0"\nbackend = "hf"', "1 / 0")
    with pytest.raises(OpensciError) as refused:
        papermill.execute_notebook(source, None, {"backend": backend}, progress_bar=False)
    assert refused.value.message.startswith(sentence)
    assert releases.calls == []


SAY = 'import os; print(os.environ["RELEASE"], os.environ["HF_MODULES_CACHE"])'


def test_a_run_under_a_release(notebook, releases, tmp_path, monkeypatch):
    """Its kernel, a cache for model code that vanishes, no layer; all is restored afterwards."""
    monkeypatch.setenv("HF_MODULES_CACHE", "/elsewhere")
    source = notebook('tf_version = "4.48.0"', SAY)
    done = papermill.execute_notebook(source, None, {"tf_version": "5.2.0"}, progress_bar=False)
    release, cache = done.cells[-1].outputs[0].text.split()
    assert release == "5.2.0"
    assert Path(cache).parent.name.startswith("opensci-")
    assert not Path(cache).parent.exists()
    assert os.environ["HF_MODULES_CACHE"] == "/elsewhere"
    assert done.metadata.kernelspec == {
        "name": "transformers-5.2.0", "display_name": "transformers 5.2.0", "language": "python",
    }  # fmt: skip
    assert not (tmp_path / "stand-in" / kernels.marker("5.2.0", "evaluation")).exists()


def test_environment_and_layer_are_built_before_a_run_and_not_to_prepare_one(notebook, releases, tmp_path):
    source = notebook('tf_version = "5.2.0"', "pass")
    read = nbformat.read(source, as_version=4)
    read.metadata["opensci"] = {"layer": "evaluation"}
    nbformat.write(read, source)
    papermill.execute_notebook(source, None, prepare_only=True, progress_bar=False)
    assert kernels.installed() == []
    papermill.execute_notebook(source, None, progress_bar=False)
    assert kernels.installed() == ["5.2.0"]
    assert (tmp_path / "stand-in" / kernels.marker("5.2.0", "evaluation")).exists()


def test_a_sentence_for_the_user_is_given_as_it_is(notebook):
    code = "from opensci_lib.errors import OpensciError\nraise OpensciError('Take another.')"
    with pytest.raises(OpensciError) as caught:
        papermill.execute_notebook(notebook(code=code), None, progress_bar=False)
    assert str(caught.value) == "Take another."


def test_a_plain_notebook_runs_as_ever_but_over_ipc(notebook):
    done = papermill.execute_notebook(notebook(), None, progress_bar=False)
    environment, transport, connection_file = done.cells[-1].outputs[0].text.split()
    assert (environment, transport) == ("driver", "ipc")
    assert not Path(connection_file).parent.exists()
    assert done.metadata.kernelspec.name == "python3"


def test_a_failing_cell_is_papermills_own_error(notebook):
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        papermill.execute_notebook(notebook(code="1 / 0"), None, progress_bar=False)


def test_a_kernel_that_contradicts_the_release_stops_everything(notebook):
    done, output = run_papermill(notebook("tf_version = None"), "-p", "tf_version", "5.2.0", "-k", "python3")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
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


def test_a_dead_kernel_is_one_sentence(notebook):
    with pytest.raises(OpensciError) as caught:
        papermill.execute_notebook(notebook(code="import os; os._exit(1)"), None, progress_bar=False)
    assert str(caught.value) == (
        "The kernel python3 died while it ran the notebook, most often because memory ran out: "
        "take a smaller model or batch, or a machine with more memory."
    )


@pytest.mark.parametrize(
    ("cell", "value", "words"),
    [
        ("a: int = 1", "1", "a whole number that is not negative, and not '1'"),
        ("a: int = 1", True, "a whole number that is not negative, and not True"),
        ("a: int = 1", -1, "a whole number that is not negative, and not -1"),
        ("a: int = 1", None, "a whole number that is not negative, and not None"),
        ("a: bool = False", 1, "true or false, and not 1"),
        ("a: str = None", 1, "a text, and not 1"),
        ("a: str = None", "\ud800", "a text, and not '\\ud800'"),
        ("a: list[str] = None", "b", "a list of texts, and not 'b'"),
        ("a: list[str] = None", ["b", 1], "a list of texts, and not ['b', 1]"),
    ],
)
def test_a_parameter_of_another_type_stops_everything(notebook, tmp_path, cell, value, words):
    with pytest.raises(OpensciError) as caught:
        papermill.execute_notebook(notebook(cell), tmp_path / "out.ipynb", {"a": value}, progress_bar=False)
    assert caught.value.message == f"The parameter a is {words}: give another (-r gives a text as it is, -y lists)."
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("cell", "value"), [("a: str = None", None), ("a: int = 1", 0), ("a: list[str] = None", []), ("a = 1", "b")]
)
def test_a_parameter_that_fits(notebook, cell, value):
    done = papermill.execute_notebook(notebook(cell, "print(repr(a))"), None, {"a": value}, progress_bar=False)
    assert done.cells[-1].outputs[0].text == f"{value!r}\n"
