"""Calling uv, which resolves packages and builds environments (https://docs.astral.sh/uv)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from opensci_lib import project
from opensci_lib.errors import OpensciError

# Each names an environment, an interpreter or a project other than the one that is being built.
_FOREIGN = {
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "VIRTUAL_ENV",
}


#: Where the command that was killed leaves uv running, it would go on in a folder that the next one fills.
_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def uv(step: str, *arguments: str, stdin: str = "") -> str:
    """Run uv and return what it printed; `step` opens the sentence if it fails.

    Raises:
        OpensciError: uv is missing, or failed; then with the innermost cause that it names.

    """
    program = os.environ.get("UV") or shutil.which("uv")
    if program is None or shutil.which(program) is None:
        raise OpensciError("uv, which builds the kernel environments, was not found: get it with `pip install uv`.")
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    if links := find_links():
        environment.setdefault("UV_FIND_LINKS", ",".join(links))
    done = subprocess.run(
        [*_WITH_US, program, *arguments],
        # A project's settings of uv hold. uv refuses to work in its own cache, where `uvx` puts an installed copy.
        cwd=project.ROOT if project.CHECKOUT else project.ENVIRONMENTS,
        env=environment,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    if "No space left on device" in done.stderr:
        raise OpensciError(f"{step} failed, no space is left on the disk: `opensci kernels remove` frees some.")
    raise OpensciError(f"{step} failed: {_cause(done.stderr)}")


def find_links() -> list[str]:
    """Return the extra places for wheels that pip is told of, by its variable or else its configuration files.

    uv reads neither. Order and meaning: https://pip.pypa.io/en/stable/topics/configuration/
    """
    if "PIP_FIND_LINKS" in os.environ:
        return os.environ["PIP_FIND_LINKS"].split()
    settings = ConfigParser(interpolation=None)
    settings.read(_pip_configuration(), encoding="utf-8")
    for section in ("install", "global"):
        if settings.has_option(section, "find-links"):
            return settings.get(section, "find-links").split()
    return []


def _pip_configuration() -> list[Path]:
    """Return where pip looks for its settings, the files that win last."""
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path.home()
    user = [home / ".pip/pip.conf", Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"]
    own = [] if named and Path(named).exists() else user
    last = [Path(named)] if named else []
    return [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), *own, Path(sys.prefix) / "pip.conf", *last]


def _cause(stderr: str) -> str:
    """Return the innermost cause that uv names, on one line and without its hints."""
    text = re.split(r"^\s*hint:", stderr, flags=re.MULTILINE)[0]
    last = re.split(r"^\s*error:|Caused by:|\u00d7|╰─▶", text, flags=re.MULTILINE)[-1]
    return " ".join(last.replace("│", " ").split()) or "uv gave no reason."
