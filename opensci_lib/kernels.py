"""One environment per transformers release, built by uv and registered as a Jupyter kernel.

`environments/transformers-V.txt` pins every package of release V. The environment built from it stands
beside it, and the kernel `transformers-V` in the project's own environment starts it. Environments
share one copy of torch on disk, because uv hard-links files from its cache.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from opensci_lib import project
from opensci_lib.errors import OpensciError

OLDEST = (4, 48)
_PYTHON = "3.11"
_MARKER = "opensci.json"


def build(version: str) -> Path:
    """Build the environment of a release, unless it is there and matches its lock file, and register its kernel.

    Returns:
        The environment's Python. The environment appears whole or not at all.

    Raises:
        OpensciError: when the release is not supported or uv can't build it.

    """
    _check(version)
    target = _environment(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not _is_current(version):
            print(f"Building the environment of transformers {version} …", file=sys.stderr)
            _install(version, target)
        if not _kernelspec(version).exists():
            _register(version)
    return _python(target)


def known() -> list[str]:
    """Return the releases with a lock file or an environment, oldest first."""
    return sorted({*available(), *installed()}, key=_order)


def python(version: str) -> Path:
    """Return the Python of a release's environment, building it if need be."""
    if _is_current(version) and _kernelspec(version).exists():
        return _python(_environment(version))
    return build(version)


def remove(version: str) -> None:
    """Remove a release's environment and kernel. The lock file stays."""
    if not _environment(version).exists():
        raise OpensciError(f"There is no environment of transformers {version}: `opensci kernels list` shows them.")
    shutil.rmtree(_environment(version))
    shutil.rmtree(_kernelspec(version).parent, ignore_errors=True)


def lock(version: str) -> Path:
    """Resolve the packages of a release's environment and pin them in `environments/transformers-V.txt`."""
    _check(version)
    path = lock_file(version)
    resolved = _uv(
        ["pip", "compile", "pyproject.toml", "--extra", "kernel", "--constraint", "-", "--python-version", _PYTHON,
         "--no-header", "--no-annotate", "--quiet"],
        f"lock transformers {version}",
        f"transformers=={version}",
    )  # fmt: skip
    # A local version such as 2.13.0+cpu belongs to one machine's wheel; 2.13.0 matches it as well.
    pins = re.sub(r"(==[^+\s]+)\+\S+", r"\1", resolved)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(f"# Written by `opensci kernels lock {version}`.\n{pins}")
    partial.replace(path)
    return path


def available() -> list[str]:
    """Return the releases that have a lock file, oldest first."""
    names = [path.stem.removeprefix("transformers-") for path in project.ENVIRONMENTS.glob("transformers-*.txt")]
    return sorted(names, key=_parts)


def installed() -> list[str]:
    """Return the releases whose environment is built, oldest first."""
    markers = project.ENVIRONMENTS.glob(f"transformers-*/{_MARKER}")
    return sorted((path.parent.name.removeprefix("transformers-") for path in markers), key=_parts)


def kernel_name(version: str) -> str:
    """Return the name of a release's Jupyter kernel."""
    return f"transformers-{version}"


def lock_file(version: str) -> Path:
    """Return where a release's lock file lies, whether there is one or not."""
    return project.ENVIRONMENTS / f"transformers-{version}.txt"


def marker(version: str) -> str:
    """Return the file, relative to the project, that a built environment has and an unfinished one has not."""
    return f"environments/transformers-{version}/{_MARKER}"


def _check(version: str) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or not _parts(version)[:2] >= OLDEST:
        raise OpensciError(_unsupported(version))


def _unsupported(version: str) -> str:
    known = ", ".join(available())
    return (
        f"There is no transformers {version} that this project supports: choose a release from 4.48.0 on ({known})."
    )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _environment(version: str) -> Path:
    return project.ENVIRONMENTS / f"transformers-{version}"


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _kernelspec(version: str) -> Path:
    return project.driver_prefix() / "share" / "jupyter" / "kernels" / kernel_name(version) / "kernel.json"


def _fingerprint(version: str) -> str | None:
    path = lock_file(version)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _is_current(version: str) -> bool:
    path = _environment(version) / _MARKER
    return path.exists() and json.loads(path.read_text())["lock_sha256"] == _fingerprint(version)


def _install(version: str, target: Path) -> None:
    """Build in a sibling folder and rename, so that an environment is whole or not there."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    what = f"build the environment of transformers {version}"
    try:
        _uv(["venv", "--quiet", "--relocatable", "--python", _PYTHON, str(partial)], what)
        install = ["pip", "install", "--quiet", "--python", str(_python(partial))]
        if lock_file(version).exists():
            _uv([*install, "--requirements", str(lock_file(version))], what)
        else:
            print(f"transformers {version} has no lock file: resolving its packages now.", file=sys.stderr)
            extra = f"{project.ROOT}[kernel]"
            _uv([*install, extra, "--constraint", "-"], what, f"transformers=={version}")
        _uv([*install, "--no-deps", "--editable", str(project.ROOT)], what)
        (partial / _MARKER).write_text(json.dumps({"transformers": version, "lock_sha256": _fingerprint(version)}))
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _register(version: str) -> None:
    path = _kernelspec(version)
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [str(_python(_environment(version))), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"transformers {version}",
        "language": "python",
        "metadata": {"debugger": True},
    }
    partial = path.with_name("kernel.json.partial")
    partial.write_text(json.dumps(spec, indent=1) + "\n")
    partial.replace(path)


def _uv(arguments: list[str], what: str, stdin: str = "") -> str:
    """Run uv and return what it prints; its failure becomes one sentence that says what could not be done."""
    # `uv run` says which uv it is; the rest of its variables point at the driver environment.
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise OpensciError(f"uv is needed to {what} and is not installed: `pip install uv`.")
    environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    if "UV_FIND_LINKS" not in environment and (links := _pip_find_links()):
        environment["UV_FIND_LINKS"] = ",".join(links)
    result = subprocess.run(
        [uv, *arguments], input=stdin, text=True, capture_output=True, env=environment, cwd=project.ROOT, check=False
    )
    if result.returncode == 0:
        return result.stdout
    said = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    if any("No space left on device" in line for line in said):
        raise OpensciError(f"Could not {what}: no space is left on the disk. Free about 1 GB and try again.")
    if found := re.search(r"no version of transformers==(\S+)", " ".join(said)):
        raise OpensciError(_unsupported(found[1].rstrip(",.")))
    raise OpensciError(f"Could not {what}: uv says: {' '.join(said[-3:])}")


_LEFT_OUT = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX"}


def _pip_find_links() -> list[str]:
    """Return pip's own find-links (https://pip.pypa.io/en/stable/topics/configuration/), which uv does not read."""
    if "PIP_FIND_LINKS" in os.environ:
        return os.environ["PIP_FIND_LINKS"].split()
    home = Path.home()
    files = [
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME", home / ".config")) / "pip/pip.conf",
        Path(os.environ.get("PIP_CONFIG_FILE", os.devnull)),
    ]
    links: list[str] = []
    for file in files:
        settings = configparser.RawConfigParser()
        settings.read(file)
        for section in ("global", "install"):
            links = settings.get(section, "find-links", fallback="").split() or links
    return links
