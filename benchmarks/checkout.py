"""A fresh copy of this checkout in which the pipeline can run from nothing, and the state that all ways start from.

It lies in `outputs/benchmarks`, which git ignores and which is on the disk of the checkout: uv links files from its
cache only within a file system. uv's cache of packages is the user's own, warm; environments are new.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from opensci_lib import project
from opensci_lib.kernels.uv import find_links

SCRATCH = project.OUTPUTS / "benchmarks"
#: The report that compares the releases: what the pipeline does without features and evaluation.
SUMMARY = "outputs/miniature/summary.html"
UV = os.environ.get("UV", "uv")
# Of the environment that runs the benchmark, and what would keep Python from caching the bytecode of packages.
_FOREIGN = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Job:
    """A job that snakemake ran: its rule, the first file that it made, and how long it took beside the others."""

    rule: str
    output: str
    seconds: float

    @property
    def release(self) -> str | None:
        """The transformers release that it is about, or None."""
        found = re.search(r"\d+\.\d+\.\d+", self.output)
        return found and found.group()


@dataclass(frozen=True)
class Run:
    """What one call of snakemake took and did."""

    seconds: float
    jobs: list[Job]

    @property
    def seconds_by_rule(self) -> dict[str, float]:
        """How long the jobs of each rule took, one after the other or side by side, the longest first."""
        total: Counter[str] = Counter()
        for job in self.jobs:
            total[job.rule] += job.seconds
        return {rule: round(seconds, 1) for rule, seconds in total.most_common()}


@dataclass(frozen=True)
class Checkout:
    """A copy of the project with a driver environment of its own."""

    folder: Path

    def run(self, *command: object) -> None:
        """Run a command in the copy's driver environment."""
        call(UV, "run", *command, cwd=self.folder)

    def snakemake(self, *arguments: str) -> Run:
        """Run the pipeline and show its progress."""
        command = [UV, "run", "snakemake", *arguments]
        begun = time.perf_counter()
        jobs, running, last = [], {}, deque(maxlen=40)
        with (
            subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment(),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            ) as process,
            tqdm(desc="snakemake", unit=" jobs", leave=False) as progress,
        ):
            assert process.stderr is not None
            for line in process.stderr:
                last.append(line)
                now = time.perf_counter()
                if rule := re.match(r"(?:local)?rule (\w+):", line):
                    name, output = rule.group(1), ""
                elif made := re.match(r" +output: ([^,\s]+)", line):
                    output = made.group(1)
                elif started := re.match(r" +jobid: (\d+)", line):
                    running[started.group(1)] = (name, output, now)
                elif finished := re.match(r"Finished jobid: (\d+)", line):
                    *which, since = running.pop(finished.group(1))
                    jobs.append(Job(*which, seconds=round(now - since, 1)))
                elif done := re.match(r"(\d+) of (\d+) steps", line):
                    progress.n, progress.total = map(int, done.groups())
                    progress.refresh()
        if process.returncode:
            raise RuntimeError("".join(last))
        return Run(time.perf_counter() - begun, jobs)


@contextmanager
def fresh_checkout() -> Iterator[Checkout]:
    """Copy the files of the working tree that git does not ignore, build the driver, and remove it all at the end."""
    with scratch() as folder:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=project.ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in [*listed.stdout.splitlines(), "uv.lock"]:
            if (project.ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project.ROOT / name, folder / name)
        call(UV, "sync", cwd=folder)
        yield Checkout(folder)


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder on the disk of the checkout, and remove it at the end."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        yield Path(folder)


def default_releases() -> list[str]:
    """Return the releases of config.yaml."""
    return yaml.safe_load((project.ROOT / "config.yaml").read_text())["tf_versions"]


def pipeline_arguments(releases: list[str], compat: bool = False) -> list[str]:
    """Return the arguments of snakemake for some releases."""
    return ["--config", f"tf_versions={json.dumps(releases)}", f"compat={str(compat).lower()}"]


def environment() -> dict[str, str]:
    """Return the variables for uv and what it runs, with the folders of wheels that pip is told of."""
    variables = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    if links := find_links():
        variables.setdefault("UV_FIND_LINKS", ",".join(links))
    return {**variables, "HF_HUB_OFFLINE": "1"}


def call(*command: object, cwd: Path = project.ROOT, **variables: str) -> str:
    """Run a command and return what it printed, or raise with what it said last."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[-4000:]}")
    return done.stdout
