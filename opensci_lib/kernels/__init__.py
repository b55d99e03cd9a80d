"""One environment and one Jupyter kernel for each transformers release.

`environments/transformers-V.txt` pins every package, `environments/transformers-V/` is the environment
that uv builds from it, and `transformers-V` is the kernel that JupyterLab and papermill then offer.
`environments/evaluation-V.txt` pins what an optional layer, put on top of that environment, adds to it.
`environments/vllm-V.txt` pins one more, of the engine vLLM and the release that it runs models with (`vllm`).
An installed copy of this library brings the lock files along, and builds in the user's cache (`project`).
Environments share one copy of torch on disk, because uv links files from its cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import click
from filelock import FileLock

from opensci_lib import project
from opensci_lib.errors import OpensciError
from opensci_lib.kernels import vllm
from opensci_lib.kernels.uv import uv
from opensci_lib.runs import as_numbers, ascending
from opensci_lib.scratch import scratch

OLDEST = "4.48.0"
PYTHON = "3.11"
MARKER = "opensci.json"
#: Packages that only some notebooks need, each an extra in pyproject.toml, installed on top of an environment.
LAYERS = ("evaluation",)
#: What runs models: the release itself, or vLLM, with the layers' packages and in an environment of its own.
ENGINES = ("transformers", "vllm")
_NAME = "opensci-lib"


def kernel_name(version: str, engine: str = "transformers") -> str:
    """Return what the kernel, the environment and the lock file of a release are called."""
    return f"{engine}-{version}"


def display_name(version: str, engine: str = "transformers") -> str:
    """Return how JupyterLab shows the kernel of a release."""
    return f"transformers {version}" + (", vLLM" if engine == "vllm" else "")


def marker(version: str, layer: str | None = None, engine: str = "transformers") -> str:
    """Return the path in the project of the file that says that an environment, or its layer, is complete."""
    return f"environments/{kernel_name(version, engine)}/{f'{layer}.json' if layer else MARKER}"


def available(engine: str = "transformers") -> list[str]:
    """Return the releases with a lock file, oldest first."""
    folders = (project.LOCKS, project.ENVIRONMENTS)
    return _versions(file.stem for folder in folders for file in folder.glob(f"{engine}-*.txt"))


def installed(engine: str = "transformers") -> list[str]:
    """Return the releases whose environment is built, oldest first."""
    built = project.ENVIRONMENTS.glob(marker("*", engine=engine).removeprefix("environments/"))
    return _versions(file.parent.name for file in built)


def python(version: str, engine: str = "transformers") -> Path:
    """Return the interpreter of a release's environment, built if it is not there yet."""
    return build(version, engine=engine)


#: Variables that a kernel is started with.
ENVIRONMENT = {
    # Container images like to forbid bytecode files; without them each start spends seconds more on imports.
    "PYTHONDONTWRITEBYTECODE": "",
    # Kernels draw progress as text, on purpose, and tqdm warns of that in every notebook.
    "PYTHONWARNINGS": "ignore:IProgress not found",
}


def build(version: str, layer: str | None = None, engine: str = "transformers") -> Path:
    """Build the environment of a release, with a layer if one is named, register its kernel, return its interpreter.

    Returns at once where the environment was built from the present lock file. A release without a lock
    file is resolved on the spot. The environment appears whole or not at all. That of an engine holds the layers.

    Raises:
        OpensciError: The release is not supported, the layer or the engine is unknown, vLLM has no lock file with
            this release, uv is missing, or uv failed.
    """
    _check(version, newest=(available() or [version])[-1])
    if layer not in (None, *LAYERS):
        raise OpensciError(f"There is no layer {layer!r}: choose one of {', '.join(LAYERS)}.")
    if engine not in ENGINES:
        raise OpensciError(f"There is no engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    if engine == "vllm" and version not in (locked := available("vllm")):
        raise OpensciError(
            f"vLLM has no lock file with transformers {version}: take {' or '.join(locked) or 'another'}, "
            f"or try `opensci kernels lock {version} --engine vllm`."
        )
    layer = layer if engine == "transformers" else None
    kernel, spec = _kernelspec(version, engine), _spec(version, engine)
    # Where all is there nothing is written: the place may be read-only.
    if _read(kernel) != spec or not _is_built(version, layer, engine):
        with _locked(version, engine):
            if not _is_built(version, engine=engine):
                _build(version, _contents(version, engine=engine), engine)
            if layer and not _is_built(version, layer):
                _add_layer(version, layer, _contents(version, layer))
            kernel.parent.mkdir(parents=True, exist_ok=True)
            _write(kernel, json.dumps(spec, indent=2) + "\n")
    return _environment(version, engine) / "bin" / "python"


def run(
    version: str,
    *arguments: object,
    packages: Sequence[str] = (),
    layer: str | None = None,
    engine: str = "transformers",
    **options: Any,
) -> subprocess.CompletedProcess:
    """Run the Python of a release's environment, built if need be, with a layer or an engine: see `build`.

    `packages` are put on top of it, for this run alone; `options` are those of `subprocess.run`.
    """
    command = [build(version, layer, engine), *map(str, arguments)]
    path = [str(_added(version, packages)), *filter(None, [os.environ.get("PYTHONPATH")])] if packages else []
    # transformers copies a model's code to a cache that processes share, and another may import it half copied.
    with scratch() as modules:
        environment = {**os.environ, **_variables(engine), "HF_MODULES_CACHE": str(modules)}
        environment |= {"PYTHONPATH": os.pathsep.join(path)} if path else {}
        return subprocess.run(command, env=environment, check=False, **options)


def remove(version: str) -> None:
    """Delete the environment and the kernel of a release; its lock file stays."""
    if version not in installed():
        raise OpensciError(f"transformers {version} has no environment to remove: see `opensci kernels list`.")
    with _locked(version):
        (_environment(version) / MARKER).unlink()  # first: what is left if this is killed is no environment
        if (kernel := _kernelspec(version).parent).exists():
            shutil.rmtree(kernel)
        shutil.rmtree(_environment(version))
        for added in project.ENVIRONMENTS.glob(f"with-{version}-*"):
            shutil.rmtree(added)


def lock(version: str, engine: str = "transformers") -> Path:
    """Resolve all packages of a release's environment and of its layers, write the lock files, return the first."""
    _check(version, newest=version)
    if engine == "vllm":
        return _lock_vllm(version)
    heading = f"# Written by `opensci kernels lock {version}`."
    extras = [f"--extra={extra}" for extra in ("kernel", *LAYERS)]
    # All together first: a layer may need an older release of something than the environment alone would get.
    whole = _resolved(version, *extras)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(whole))
        constraints.flush()
        pins = {
            layer: _resolved(version, "--constraint", constraints.name, "--extra", "kernel", *extra)
            for layer, extra in ((None, []), *((layer, ["--extra", layer]) for layer in LAYERS))
        }
    project.ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    for layer, lines in pins.items():
        own = [pin for pin in lines if layer is None or pin not in pins[None]]
        _write(project.ENVIRONMENTS / _lock_name(version, layer), "\n".join([heading, *own, ""]))
    return _lock_file(version)


def _lock_vllm(version: str) -> Path:
    """Resolve vLLM with a release and all layers, and write its lock file."""
    extras = [f"--extra={extra}" for extra in ("kernel", *LAYERS)]
    pins = [pin for pin in _resolved(version, *extras, besides=vllm.package()) if not vllm.is_left_out(pin)]
    heading = f"# Written by `opensci kernels lock {version} --engine vllm`."
    project.ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    _write(project.ENVIRONMENTS / _lock_name(version, engine="vllm"), "\n".join([heading, *pins, ""]))
    return _lock_file(version, engine="vllm")


def _resolved(version: str, *options: str, besides: str = "") -> list[str]:
    pins = _uv(
        f"Resolving the packages of transformers {version}",
        *("pip", "compile", "--quiet", str(project.PYPROJECT), "-", "--python-version", PYTHON, *options),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
        stdin=f"transformers=={version}\n{besides}\n" if besides else f"transformers=={version}\n",
        version=version,
    )
    # A local version such as 2.13.0+cpu belongs to one machine's wheel; 2.13.0 accepts it as well.
    return [pin.removesuffix("+cpu") for pin in pins.splitlines()]


def _environment(version: str, engine: str = "transformers") -> Path:
    return project.ENVIRONMENTS / kernel_name(version, engine)


def _lock_name(version: str, layer: str | None = None, engine: str = "transformers") -> str:
    return f"{layer or engine}-{version}.txt"


def _lock_file(version: str, layer: str | None = None, engine: str = "transformers") -> Path:
    """Return the lock file that `lock` wrote here, or else the one that came with an installed copy."""
    name = _lock_name(version, layer, engine)
    own, brought = project.ENVIRONMENTS / name, project.LOCKS / name
    return brought if brought.exists() and not own.exists() else own


def _kernelspec(version: str, engine: str = "transformers") -> Path:
    return project.kernelspecs() / kernel_name(version, engine) / "kernel.json"


def _locked(version: str, engine: str = "transformers") -> FileLock:
    project.ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    return FileLock(project.ENVIRONMENTS / f".{kernel_name(version, engine)}.lock")


def _versions(names: Iterable[str]) -> list[str]:
    return ascending(name.rpartition("-")[2] for name in names)


def _check(version: str, newest: str) -> None:
    well_formed = re.fullmatch(r"\d+\.\d+\.\d+", version)
    if not well_formed or not as_numbers(OLDEST) <= as_numbers(version) <= as_numbers(newest):
        raise _unsupported(version)


def _unsupported(version: str) -> OpensciError:
    return OpensciError(
        f"transformers {version} is not a release that this project supports:"
        f" choose one from {OLDEST} on ({', '.join(available())})."
    )


def _is_built(version: str, layer: str | None = None, engine: str = "transformers") -> bool:
    """Say whether an environment, and a layer of it, are there, and made from what they would be made from now."""
    markers = {None: MARKER, layer: f"{layer}.json" if layer else MARKER}
    folder = _environment(version, engine)
    return all(_read(folder / marker) == _contents(version, part, engine) for part, marker in markers.items())


def _contents(version: str, layer: str | None = None, engine: str = "transformers") -> dict:
    """Return what an environment or a layer is made from; where that has changed, it is built anew."""
    file = _lock_file(version, layer, engine)
    return {
        "transformers": version,
        "python": PYTHON,
        "lock_sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None,
        "project": _library(),
    }


def _library() -> str:
    """Say which code of this library an environment holds: that of a checkout, or a copy of these very files."""
    if project.CHECKOUT:
        return str(project.ROOT)
    return hashlib.sha256((distribution(_NAME).read_text("RECORD") or "").encode()).hexdigest()


def _copy_library(environment: Path) -> None:
    """Put the installed copy of this library into an environment; no index may have it."""
    packages = environment / "lib" / f"python{PYTHON}" / "site-packages"
    for file in distribution(_NAME).files or []:
        if ".." not in file.parts:  # scripts and Jupyter's settings, which lie beside the packages
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), target)


def _read(file: Path) -> dict | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _build(version: str, contents: dict, engine: str = "transformers") -> None:
    """Build beside the environment's place and move it there when it is complete."""
    folder = _environment(version, engine)
    step = f"Building the environment of {display_name(version, engine)}"
    click.echo(f"{step} …", err=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a build that was killed
    # vLLM's lock leaves out what the metadata of its packages ask for.
    packages = ["-r", str(_lock_file(version, engine=engine)), *(["--no-deps"] if engine == "vllm" else [])]
    if contents["lock_sha256"] is None:
        click.echo(f"transformers {version} has no lock file: its packages are resolved now.", err=True)
        packages = ["-r", str(project.PYPROJECT), "--extra", "kernel", f"transformers=={version}"]
    install = ["pip", "install", "--python", str(temporary / "bin" / "python")]
    venv = ["venv", "--relocatable", "--python", PYTHON, "--prompt", folder.name, str(temporary)]
    library = [[*install, "--no-deps", "--editable", str(project.ROOT)]] if project.CHECKOUT else []
    try:
        for arguments in (venv, [*install, *packages], *library):
            _uv(step, *arguments, version=version)
        if not project.CHECKOUT:
            _copy_library(temporary)
        _write(temporary / MARKER, json.dumps(contents, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _add_layer(version: str, layer: str, contents: dict) -> None:
    """Install a layer into an environment that is there, unmarked meanwhile, so that a broken try is repeated."""
    step = f"Adding {layer} to the environment of transformers {version}"
    click.echo(f"{step} …", err=True)
    folder = _environment(version)
    packages = ["-r", str(_lock_file(version, layer))]
    if contents["lock_sha256"] is None:
        packages = ["-r", str(project.PYPROJECT), "--extra", "kernel", "--extra", layer, f"transformers=={version}"]
    done = folder / f"{layer}.json"
    done.unlink(missing_ok=True)
    _uv(step, "pip", "install", "--python", str(folder / "bin" / "python"), *packages, version=version)
    _write(done, json.dumps(contents, indent=2) + "\n")


def _added(version: str, packages: Sequence[str]) -> Path:
    """Return a folder that holds packages and what they need, in the versions of a release's environment.

    The environment is left as it is: what strangers' code needs is no part of it.
    """
    wanted = sorted(str(Path(name).absolute()) if Path(name).exists() else name for name in packages)
    key = hashlib.sha256(json.dumps([_read(_environment(version) / MARKER), wanted]).encode()).hexdigest()[:12]
    folder = project.ENVIRONMENTS / f"with-{version}-{key}"
    step, interpreter = f"Adding {', '.join(packages)} to transformers {version}", str(python(version))
    with _locked(version):
        if folder.exists():
            return folder
        click.echo(f"{step} …", err=True)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of a try that was killed
        held = _uv(step, "pip", "freeze", "--exclude-editable", "--python", interpreter, version=version)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write("\n".join(pin for pin in held.splitlines() if " @ " not in pin))
            constraints.flush()
            install = ["pip", "install", "--python", interpreter, "--target", str(temporary)]
            _uv(step, *install, "--constraint", constraints.name, *wanted, version=version)
        temporary.rename(folder)
    return folder


def _variables(engine: str) -> dict[str, str]:
    """Return the variables that a release's environment is run with."""
    return ENVIRONMENT | (vllm.environment() if engine == "vllm" else {})


def _spec(version: str, engine: str) -> dict:
    interpreter = str(_environment(version, engine) / "bin/python")
    return {
        "argv": [interpreter, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": display_name(version, engine),
        "language": "python",
        "env": _variables(engine),
        "metadata": {"debugger": True},
    }


def _uv(step: str, *arguments: str, version: str, stdin: str = "") -> str:
    """Run uv for a release, and say so where there is no such release."""
    try:
        return uv(step, *arguments, stdin=stdin)
    except OpensciError as error:
        if f"no version of transformers=={version}" in error.message:
            raise _unsupported(version) from error
        raise
