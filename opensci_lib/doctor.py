"""Say what this machine has of what the project needs, and how to get the rest."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import constants, get_token
from huggingface_hub.utils import get_session

from opensci_lib import kernels, project

_PATIENCE = 5  # seconds that the Hub has to answer
_ROOM = 5 * 10**9  # bytes that a few environments and a small model take


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and, where something is missing, the command that gets it."""

    what: str
    found: str
    cure: str | None = None


def doctor() -> list[Finding]:
    """Look at versions, uv, kernels, devices, disk and the Hub. Nothing is changed, and no secret is shown."""
    return [
        Finding("opensci", f"{version('opensci-lib')}, Python {platform.python_version()}, {platform.platform()}"),
        _uv(),
        _kernels(),
        _device(),
        _disk("environments", project.ENVIRONMENTS),
        _disk("outputs", project.OUTPUTS),
        _disk("Hub cache", Path(constants.HF_HUB_CACHE)),
        _hub(),
        _slurm(),
    ]


def _uv() -> Finding:
    program = os.environ.get("UV") or shutil.which("uv")
    if program is None or shutil.which(program) is None:
        return Finding("uv", "not found; it builds the kernel environments", "pip install uv")
    return Finding("uv", _first_line(program, "--version"))


def _kernels() -> Finding:
    built, known = kernels.installed(), kernels.available()
    found = f"{len(built)} of {len(known)} locked releases are built"
    if not built:
        return Finding("kernels", found, f"opensci kernels build {known[-1]}")
    return Finding("kernels", f"{found}: {', '.join(built)}")


def _device() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = f"{os.cpu_count()} cores, {memory:.0f} GiB memory"
    if shutil.which("nvidia-smi") is None:
        return Finding("device", f"CPU only: {cpu}")
    cards = _first_line("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return Finding("device", f"{cards}; {cpu}")


def _disk(what: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 10**9:.0f} GB free at {folder}"
    return Finding(what, found, "opensci kernels remove VERSION" if free < _ROOM else None)


def _hub() -> Finding:
    who = "with a token" if get_token() else "without a token"
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", "switched off by HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE")
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:  # of whichever client this huggingface_hub uses
        kind = type(error).__name__
        return Finding("Hub", f"{constants.ENDPOINT} does not answer ({kind}); models of your own need none", None)
    return Finding("Hub", f"{constants.ENDPOINT} answers, {who}", None if get_token() else "hf auth login")


def _slurm() -> Finding:
    found = "sbatch is here" if shutil.which("sbatch") else "not installed; only a cluster needs it"
    return Finding("SLURM", found)


def _first_line(*command: str) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return said.splitlines()[0] if said else "does not answer"
