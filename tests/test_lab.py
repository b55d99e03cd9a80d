"""JupyterLab after `uv run jupyter lab` in a fresh clone: what it offers, and what a browser makes of it.

The releases that a browser asks for are not built there when these tests begin.
"""

import json
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass

import nbformat
import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import KernelManager
from playwright.sync_api import expect

from opensci_lib import kernels
from opensci_lib.kernels.specs import ReleaseKernels
from tests.conftest import Clone
from tests.notebook import tables

#: Milliseconds in which a release is built and its notebook run, on a machine that has other things to do.
PATIENCE = 300_000
RELEASES = ["4.55.4", "5.8.1"]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    address: str
    clone: Clone

    def ask(self, path):
        request = urllib.request.Request(f"{self.address}/{path}", headers={"Authorization": "token secret"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def lab(clone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"--ServerApp.port={port}", "--IdentityProvider.token=secret", "--ServerApp.ip=127.0.0.1"]
    command = ["uv", "run", "jupyter", "lab", "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    with subprocess.Popen(
        [*command, *settings], cwd=clone.folder, env=clone.variables, stderr=subprocess.DEVNULL
    ) as server:
        lab = Lab(f"http://127.0.0.1:{port}", clone)
        try:
            for _ in range(240):
                try:
                    lab.ask("api/status")
                    break
                except OSError:
                    time.sleep(0.5)
            yield lab
        finally:
            server.terminate()


def test_every_locked_release_is_offered(lab):
    offered = lab.ask("api/kernelspecs")["kernelspecs"]
    for version in kernels.available():
        built = (lab.clone.folder / kernels.marker(version)).exists()
        shown = offered[f"transformers-{version}"]["spec"]["display_name"]
        assert shown == f"transformers {version}" + ("" if built else " (built when it is chosen)")


def test_a_kernel_may_take_its_time_to_be_built(clone):
    """JupyterLab would otherwise give up after a minute, and forget the cells that wait: a first build downloads."""
    command = ["uv", "run", "jupyter", "lab", "--show-config-json"]
    shown = subprocess.run(command, cwd=clone.folder, env=clone.variables, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["MappingKernelManager"]["kernel_info_timeout"] >= 3600


def test_nobody_is_asked_about_news(lab):
    settings = lab.ask("lab/api/settings/@jupyterlab/apputils-extension:notification")
    assert settings["schema"]["properties"]["fetchNews"]["default"] == "false"


def test_an_unknown_kernel_is_unknown():
    with pytest.raises(NoSuchKernel):
        ReleaseKernels().get_kernel_spec("transformers-4.47.0")


@pytest.mark.kernel
def test_a_kernel_that_is_not_built_is_built_when_it_is_chosen():
    release = "5.7.0"
    if release in kernels.installed():
        kernels.remove(release)
    specs = ReleaseKernels()
    name = kernels.kernel_name(release)
    assert specs.get_kernel_spec(name).display_name == "transformers 5.7.0 (built when it is chosen)"
    manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=300)
    said = []
    client.execute_interactive(
        "from importlib.metadata import version; print(version('transformers'))",
        output_hook=lambda message: said.append(message["content"].get("text", "")),
    )
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert "".join(said).strip() == release
    assert specs.get_kernel_spec(name).display_name == "transformers 5.7.0"


@pytest.fixture
def visit(lab, chromium):
    """Return a function that opens a notebook of the clone."""
    pages = []

    def visit(notebook):
        pages.append(chromium.new_page())
        pages[-1].set_default_timeout(PATIENCE)
        # Without the notebooks that were open before, which JupyterLab remembers.
        pages[-1].goto(f"{lab.address}/lab/tree/notebooks/{notebook}?reset&token=secret")
        return pages[-1]

    yield visit
    for page in pages:
        page.close()


_KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
#: The notebook, or nothing while a code cell has not run. Cells that are scrolled away are not in the page.
_EXECUTED = f"""() => {{
    const {{cells}} = jupyterapp.shell.currentWidget.context.model.toJSON()
    const code = cells.filter(cell => cell.cell_type == "code")
    const failed = code.some(cell => cell.outputs.some(output => output.output_type == "error"))
    return failed || {_KERNEL}.status == "idle" && code.every(cell => cell.execution_count) ? cells : null
}}"""


def run_all(page):
    """Run all cells, and return the outputs."""
    page.wait_for_function(_KERNEL)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    cells = page.wait_for_function(_EXECUTED).json_value()
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    return outputs


@pytest.mark.browser
@pytest.mark.kernel
@pytest.mark.parametrize("release", RELEASES)
def test_infer_runs_under_a_release_that_was_not_built_before(lab, visit, release):
    name = f"infer-{release}.ipynb"
    notebook = nbformat.read(lab.clone.folder / "notebooks" / "infer.ipynb", as_version=4)
    del notebook.metadata["kernelspec"]  # so that JupyterLab asks which
    nbformat.write(notebook, lab.clone.folder / "notebooks" / name)
    page = visit(name)
    choice = page.get_by_role("dialog").get_by_role("combobox")
    for version in kernels.available():
        expect(choice.locator("option", has_text=f"transformers {version}")).to_have_count(1, timeout=PATIENCE)
    choice.select_option(label=f"transformers {release} (built when it is chosen)")
    page.get_by_role("button", name="Select Kernel").click()
    outputs = run_all(page)
    (completions, *_) = tables(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)]))
    assert ["The capital of France is", release, "fixed", " Paris."] in completions


@pytest.mark.browser
@pytest.mark.kernel
def test_explore_answers(visit):
    page = visit("explore.ipynb")
    run_all(page)
    for side, release in zip(("left", "right"), RELEASES, strict=True):
        page.get_by_label(side).select_option(release)
    page.get_by_label("prompt").fill("The capital of Italy is")
    page.get_by_role("button", name="Compute").click()
    shown = page.locator(".jp-OutputArea-output .jp-OutputArea")
    expect(shown).to_contain_text("fixed on 5.8.1: equal to original on 4.55.4, bit for bit", timeout=PATIENCE)
    for release, variant in zip(RELEASES, ("original", "fixed"), strict=True):
        expect(shown).to_contain_text(f"{variant} on {release}: Rome.")
    last = ["4", "' is'", "' Rome'", "' Rome'", "equal", "0"]
    expect(shown.locator("tbody tr").last.locator("td")).to_have_text(last)
    for finding in ("' Rome' leads", "radians a token"):
        figure = shown.locator("figure", has_text=finding)
        assert figure.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    page.get_by_label("prompt").fill("Another")
    expect(shown).to_be_empty()
