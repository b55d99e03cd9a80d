"""Take the README's pictures: `index.html` and `summary.html` of this folder, and `explore.ipynb` in JupyterLab.

`uv run snakemake docs` ends with it. It needs Chromium: `apt install chromium`.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "screenshots"
SIZE = {"width": 1200, "height": 900}
#: Milliseconds for JupyterLab to start, and for two releases to be built and to answer.
PATIENCE = 600_000


@contextmanager
def jupyter_lab() -> Iterator[str]:
    """Run JupyterLab on this checkout, as somebody who has no settings finds it; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    settings = [f"--ServerApp.port={port}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    with (
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen(
            [*command, *settings],
            cwd=DOCS.parent,
            env={**os.environ, "JUPYTER_CONFIG_DIR": home, "JUPYTER_DATA_DIR": home},
            stderr=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        try:
            assert server.stderr is not None
            next(line for line in server.stderr if "is running at" in line)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def explore(page: Page, address: str) -> None:
    """Run explore.ipynb, and let its two releases answer."""
    page.goto(f"{address}/doc/tree/notebooks/explore.ipynb")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.get_by_role("button", name="Compute").click()
    page.locator(".jp-OutputArea-output .jp-OutputArea tbody").wait_for()
    page.get_by_role("heading").first.scroll_into_view_if_needed()


def main() -> None:
    """Take the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, jupyter_lab() as address:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE)
        for name in ("index", "summary"):
            page.goto((DOCS / f"{name}.html").as_uri())
            page.screenshot(path=PICTURES / f"{name}.png")
        explore(page, address)
        page.screenshot(path=PICTURES / "explore.png")
        browser.close()


if __name__ == "__main__":
    main()
