"""What tests share: the miniature, its hotfixed folders, and runs of them in kernel environments."""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import sync_playwright

from opensci_lib import kernels, project
from opensci_lib.download import download
from opensci_lib.hotfix import hotfix
from opensci_lib.kernels.uv import find_links
from opensci_lib.reports.compare import Run
from opensci_lib.runs.variants import VARIANTS
from tests import tally
from tests.cluster import missing_programs

# The same cases in every run; `--hypothesis-profile=long` tries ten times as many, others each time.
_HYPOTHESIS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("same", derandomize=True, **_HYPOTHESIS)
settings.register_profile("long", max_examples=1000, **_HYPOTHESIS)
settings.load_profile("same")

# Who starts the tests in a shell's background ignores Ctrl-C, and would hand that on to all that is interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config, items):
    """Mark tests of the miniature, which need a kernel; leave out those whose programs are not installed.

    In CI nothing is left out: tests whose programs are missing stay, and fail, and those that take minutes run.
    """
    for item in items:
        if "miniature" in item.fixturenames:
            item.add_marker(pytest.mark.kernel)
        if not {"small_disk", "read_only"}.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.mount)
    if long := [item for item in items if item.get_closest_marker("long") and not os.environ.get("CI")]:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    vllm = [] if kernels.installed("vllm") else ["its environment"]
    locked = kernels.available("vllm") or ["VERSION"]  # a copy of the tests alone has no lock files
    needs = {
        "slurm": ("ON A SLURM CLUSTER", missing_programs(), "apt install slurm-wlm munge"),
        "browser": ("IN A BROWSER", [] if shutil.which("chromium") else ["chromium"], "apt install chromium"),
        "mount": ("ON DISKS OF THEIR OWN", [] if may_mount() else ["the right to mount"], "sudo uv run pytest"),
        "vllm": ("WITH VLLM", vllm, f"opensci kernels build {locked[-1]} --engine vllm"),
    }
    config.stash[_LEFT_OUT] = []
    for marker, (where, absent, cure) in needs.items():
        left_out = [item for item in items if item.get_closest_marker(marker)]
        if absent and left_out and not os.environ.get("CI"):
            config.stash[_LEFT_OUT].append(
                f"THE TESTS {where} DID NOT RUN: {', '.join(absent)} not found (`{cure}` brings what is missing)."
            )
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


def may_mount() -> bool:
    """Say whether file systems can be mounted here; the try is in a namespace of its own, which ends with it."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(tried, capture_output=True, check=False).returncode == 0


def pytest_terminal_summary(terminalreporter, config):
    """Say what was tried to break it, and loudly what was left out."""
    if tally.tried:
        terminalreporter.write_line(tally.summary())
    for sentence in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(sentence, red=True, bold=True)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> Path:
    """A copy of the built-in model."""
    return Path(download("miniature", local_dir=tmp_path_factory.mktemp("miniature") / "original").path)


@pytest.fixture(scope="module")
def model(miniature, tmp_path_factory, request):
    """A miniature of a name that nothing else has, so that this checkout's own results stay as they are."""
    own = f"{tmp_path_factory.getbasetemp().name}-{request.module.__name__.rpartition('.')[2]}"
    yield shutil.copytree(miniature, tmp_path_factory.mktemp("model") / own)
    shutil.rmtree(project.OUTPUTS / own, ignore_errors=True)


@pytest.fixture(scope="session")
def variant_folder(miniature):
    """Return a function from a variant's name to the folder of the miniature in that state."""

    @cache
    def folder(variant: str) -> Path:
        if variant == "original":
            return miniature
        return Path(hotfix(miniature, miniature.with_name(variant), rules=VARIANTS[variant]).dst_dir)

    return folder


@pytest.fixture(scope="module")
def chromium():
    """A browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Clone:
    """A folder, and the variables of somebody new who has it."""

    folder: Path
    variables: dict[str, str]


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Clone:
    """What git would give somebody whose home is empty: this working tree without what git ignores.

    uv has its cache, and the Pythons that it has downloaded; what is resolved is what is resolved here.
    """
    place = tmp_path_factory.mktemp("new")
    for name in ("home", "clone"):
        (place / name).mkdir()
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=project.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(lambda name: (project.ROOT / name).is_file(), [*files, "uv.lock"]):
        (place / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project.ROOT / name, place / "clone" / name)
    uv = os.environ.get("UV", "uv")
    kept = {
        "UV_CACHE_DIR": [uv, "cache", "dir"],
        "UV_PYTHON_INSTALL_DIR": [uv, "python", "dir"],
    }
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "VIRTUAL_ENV", "UV_PROJECT", "PYTHON", "XDG_", "HF_"))
    }
    for name, command in kept.items():
        variables[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    variables |= {"HOME": str(place / "home"), "PATH": f"{Path(shutil.which(uv)).parent}:{os.environ['PATH']}"}
    if links := find_links():
        variables["UV_FIND_LINKS"] = ",".join(links)
    return Clone(place / "clone", variables)


_GENERATE = """
import json, sys
from opensci_lib import shim
from opensci_lib.generate import generate
from opensci_lib.miniature import PROMPTS

folder, variant, output = sys.argv[1:]
if variant == "original":
    shim.apply()
run = generate(folder, PROMPTS, capture_path=f"{output}/capture.safetensors")
run.save(f"{output}/run.json", variant=variant)
"""


@pytest.fixture(scope="session")
def run(variant_folder, tmp_path_factory):
    """Return a function that runs a variant of the miniature under a release, once, and gives its Run."""

    @cache
    def start(tf_version: str, variant: str) -> Run:
        output = tmp_path_factory.mktemp(f"{tf_version}-{variant}")
        assert kernels.run(tf_version, "-c", _GENERATE, variant_folder(variant), variant, output).returncode == 0
        return Run(output)

    return start
