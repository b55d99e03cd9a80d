"""Where things lie in a checkout of this project."""

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "environments"
OUTPUTS = ROOT / "outputs"


def code_digest(package: Path) -> str:
    """Return a hash of a package's modules, names and contents: it tells what older code made."""
    files = sorted(package.rglob("*.py"))
    named = [f"{file.relative_to(package)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def driver_prefix() -> Path:
    """Return the environment that holds JupyterLab and papermill, where kernels are registered.

    Inside a kernel environment that is the project's own `.venv` (or `UV_PROJECT_ENVIRONMENT`);
    everywhere else it is the environment that runs this code.
    """
    here = Path(sys.prefix)
    if ENVIRONMENTS not in here.parents:
        return here
    return ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
