"""What tests share: the miniature, its hotfixed folders, and runs of them in kernel environments."""

import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from opensci_lib import kernels
from opensci_lib.download import download
from opensci_lib.hotfix import hotfix
from opensci_lib.reports.compare import Run
from opensci_lib.runs.variants import VARIANTS
from tests import tally
from tests.cluster import missing_programs

# The same cases in every run; `--hypothesis-profile=long` tries ten times as many, others each time.
_HYPOTHESIS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("same", derandomize=True, **_HYPOTHESIS)
settings.register_profile("long", max_examples=1000, **_HYPOTHESIS)
settings.load_profile("same")

_ABSENT = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config, items):
    """Mark tests of the miniature, which need a kernel; leave out those on a cluster where SLURM is not installed.

    In CI the cluster's tests stay, and fail; those that take minutes run only there.
    """
    for item in items:
        if "miniature" in item.fixturenames:
            item.add_marker(pytest.mark.kernel)
    if long := [item for item in items if item.get_closest_marker("long") and not os.environ.get("CI")]:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    absent = [] if os.environ.get("CI") else missing_programs()
    slurm = [item for item in items if item.get_closest_marker("slurm")]
    if absent and slurm:
        config.stash[_ABSENT] = absent
        config.hook.pytest_deselected(items=slurm)
        items[:] = [item for item in items if item not in slurm]


def pytest_terminal_summary(terminalreporter, config):
    """Say what was tried to break it, and loudly what was left out."""
    if tally.tried:
        terminalreporter.write_line(tally.summary())
    if absent := config.stash.get(_ABSENT, []):
        terminalreporter.write_line(
            f"THE TESTS ON A SLURM CLUSTER DID NOT RUN: {', '.join(absent)} not found "
            "(`apt install slurm-wlm munge` brings them).",
            red=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> Path:
    """A copy of the built-in model."""
    return Path(download("miniature", local_dir=tmp_path_factory.mktemp("miniature") / "original").path)


@pytest.fixture(scope="session")
def variant_folder(miniature):
    """Return a function from a variant's name to the folder of the miniature in that state."""

    @cache
    def folder(variant: str) -> Path:
        if variant == "original":
            return miniature
        return Path(hotfix(miniature, miniature.with_name(variant), rules=VARIANTS[variant]).dst_dir)

    return folder


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
