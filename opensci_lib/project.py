"""Where things lie in a checkout of this project."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "environments"
OUTPUTS = ROOT / "outputs"


def driver_prefix() -> Path:
    """Return the environment that holds JupyterLab and papermill, where kernels are registered.

    Inside a kernel environment that is the project's own `.venv` (or `UV_PROJECT_ENVIRONMENT`);
    everywhere else it is the environment that runs this code.
    """
    here = Path(sys.prefix)
    if ENVIRONMENTS not in here.parents:
        return here
    return ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
