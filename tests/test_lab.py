"""JupyterLab as it is found after `uv run jupyter lab`, with the settings that come with this package."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import KernelManager

from opensci_lib import kernels, project
from opensci_lib.kernels.specs import ReleaseKernels


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start JupyterLab in the home of somebody new, and return a function that asks its interface."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    settings = [f"--ServerApp.port={port}", "--IdentityProvider.token=secret", "--ServerApp.ip=127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    with subprocess.Popen(
        [*command, *settings], cwd=project.ROOT, env={**environment, "HOME": str(home)}, stderr=subprocess.DEVNULL
    ) as server:

        def ask(path):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/{path}", headers={"Authorization": "token secret"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        try:
            for _ in range(120):
                try:
                    ask("api/status")
                    break
                except OSError:
                    time.sleep(0.5)
            yield ask
        finally:
            server.terminate()


def test_every_locked_release_is_offered(lab):
    offered = lab("api/kernelspecs")["kernelspecs"]
    assert {kernels.kernel_name(version) for version in kernels.available()} < offered.keys()
    for version in kernels.available():
        built = "" if version in kernels.installed() else " (built when it is chosen)"
        assert offered[f"transformers-{version}"]["spec"]["display_name"] == f"transformers {version}{built}"


def test_nobody_is_asked_about_news(lab):
    settings = lab("lab/api/settings/@jupyterlab/apputils-extension:notification")
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
