"""Where things lie: in a checkout of this project, or with an installed copy of it."""

import hashlib
import os
import sys
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = Path(__file__).resolve().parent
#: What a wheel holds of the checkout besides the package (pyproject.toml names it).
_INSTALLED = PACKAGE / "installed"
CHECKOUT = not _INSTALLED.exists()
ROOT = PACKAGE.parent if CHECKOUT else _INSTALLED
#: What says what an environment holds besides a release, in its extras.
PYPROJECT = ROOT / "pyproject.toml"
#: The lock files that belong to the project.
LOCKS = ROOT / "environments"
#: Where environments are built: a checkout has its own, installed copies those in the user's cache.
ENVIRONMENTS = LOCKS if CHECKOUT else user_cache_path("opensci") / "environments"
OUTPUTS = (ROOT if CHECKOUT else Path.cwd()) / "outputs"


def code_digest(package: Path) -> str:
    """Return a hash of a package's modules, names and contents: it tells what older code made."""
    files = sorted(package.rglob("*.py"))
    named = [f"{file.relative_to(package)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def kernelspecs() -> Path:
    """Return the folder in which kernels are registered.

    In a checkout it is that of the environment that holds JupyterLab and papermill: inside a kernel environment the
    project's own `.venv` (or `UV_PROJECT_ENVIRONMENT`), everywhere else the one that runs this code. Environments in
    the user's cache are registered for the user, whom any JupyterLab offers them.
    """
    if not CHECKOUT:
        from jupyter_core.paths import jupyter_data_dir

        return Path(jupyter_data_dir()) / "kernels"
    prefix = Path(sys.prefix)
    if ENVIRONMENTS in prefix.parents:
        prefix = ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
    return prefix / "share" / "jupyter" / "kernels"
