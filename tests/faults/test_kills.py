"""kill -9 at random moments: the next run finishes, equals an undisturbed one, and nothing else stays."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock, Timeout

from tests.faults.disturbed import check_kills, command, tree, with_table
from tests.notebook import tables, titles
from tests.test_pipeline import _hand_made_results


def removed(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True) if not path.is_dir() else None


def test_a_hotfix(source):
    fixed = source.with_name("fixed")
    words = command("opensci", "hotfix", "--src_dir", source, "--dst_dir", fixed)
    check_kills("a hotfix", words, source.parent, lambda: tree(source.parent), lambda: removed(fixed))


def test_a_hotfix_in_place_of_an_older_one(source):
    """At no moment is there neither the old nor the new folder, once the next run has looked."""
    fixed = source.with_name("fixed")
    words = command("opensci", "hotfix", "--src_dir", source, "--dst_dir", fixed)

    def again():
        (source / "README.md").unlink(missing_ok=True)
        removed(fixed)
        from opensci_lib.hotfix import hotfix

        hotfix(source, fixed)
        (source / "README.md").write_text("another state of the source")

    check_kills("a hotfix over another", words, source.parent, lambda: tree(source.parent), again)


def test_a_download(hub, tmp_path):
    model = tmp_path / "place" / "model"
    words = command("opensci", "download", "org/name", "--local_dir", model)
    content = lambda: tree(model, lambda path: ".cache" in path.parts)  # noqa: E731  when it was asked is in there
    again = lambda: removed(model, tmp_path / "hf")  # noqa: E731
    check_kills("a download", words, model.parent, content, again, env=hub.environment)


BUILD = """
import sys
from pathlib import Path
from opensci_lib import kernels, project

project.ENVIRONMENTS = Path(sys.argv[1])
project.driver_prefix = lambda: Path(sys.argv[1]).parent / "driver"
kernels.build("5.23.0")
"""


@pytest.mark.long
def test_a_build(tmp_path):
    """A real one: uv, from its cache, some gigabytes as links."""
    environments = tmp_path / "environments"
    environments.mkdir()
    lock = Path(__file__).parents[2] / "environments" / "transformers-5.23.0.txt"
    shutil.copy(lock, environments)
    environment = environments / "transformers-5.23.0"

    def content():
        packages = {path.name for path in (environment / "lib" / "python3.11" / "site-packages").iterdir()}
        return packages, json.loads((environment / "opensci.json").read_text()), tree(tmp_path / "driver")

    words = command("python", "-c", BUILD, environments)
    check_kills(
        "an environment's build", words, environments, content, lambda: removed(environment, tmp_path / "driver")
    )


def outputs(notebook: Path) -> list:
    """Return what a notebook shows, without what is of a run of it alone."""
    cells = nbformat.read(notebook, 4).cells
    shown = [[dict(output.get("data", output)) for output in cell.get("outputs", ())] for cell in cells]
    for data in (data for cell in shown for data in cell):
        data.pop("image/png", None)
    return shown


def test_a_papermill_run(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"import time; time.sleep(0.2); print({number})") for number in range(3)],
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
    )
    place = tmp_path / "place"
    place.mkdir()
    nbformat.write(notebook, tmp_path / "in.ipynb")
    out = place / "out.ipynb"
    words = command("papermill", "--no-progress-bar", tmp_path / "in.ipynb", out)
    check_kills("a papermill run", words, place, lambda: outputs(out), lambda: removed(out))
    for lock in Path("/tmp").glob("opensci-*/.running"):
        with pytest.raises(Timeout), FileLock(lock, blocking=False):  # of others, which live
            pass


@pytest.mark.long
def test_a_summary(tmp_path):
    results = _hand_made_results(tmp_path / "results")
    made = [results / name for name in ("parity.csv", "positions.csv", "parity.png", "summary.ipynb")]
    words = command(
        "papermill", "--no-progress-bar", "notebooks/summary.ipynb", made[-1], "-p", "output_dir", results
    )

    def content():
        notebook = nbformat.read(made[-1], 4)
        return tables(notebook), titles(notebook), tree(results, lambda path: path.suffix in (".ipynb", ".png"))

    check_kills("a summary", words, results, content, lambda: removed(*made))


def test_the_index(tmp_path):
    results = with_table(_hand_made_results(tmp_path / "results"))
    words = command("opensci", "index", "--output_dir", results)

    def content():
        return [line for line in (results / "index.html").read_text().splitlines() if "written" not in line]

    check_kills("an index", words, results, content, lambda: removed(results / "index.html"))


@pytest.mark.kernel
@pytest.mark.long
def test_a_run_under_a_release(tmp_path):
    """The numbers of a run that was killed and repeated are the numbers."""
    place = tmp_path / "place"
    parameters = {
        "tf_version": "5.23.0",
        "variants": ["fixed"],
        "output_dir": str(place),
        "prompts": ["The capital of"],
    }
    words = command(
        "papermill", "--no-progress-bar", "notebooks/infer.ipynb", place / "infer.ipynb", "-y", json.dumps(parameters)
    )

    def content():
        record = json.loads((place / "fixed" / "run.json").read_text())
        capture = (place / "fixed" / "capture.safetensors").read_bytes()
        return record["completions"], record["top_tokens"], record["settings"], capture

    def again():
        removed(place)
        place.mkdir()

    check_kills("a run under a release", words, place, content, again)
