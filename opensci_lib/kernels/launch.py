"""Build the environment of a release, then become its kernel: `python -m opensci_lib.kernels.launch V -f FILE`."""

import os
import sys

from opensci_lib import kernels
from opensci_lib.errors import OpensciError

if __name__ == "__main__":
    version, *arguments = sys.argv[1:]
    try:
        python = str(kernels.build(version))
    except OpensciError as error:
        sys.exit(error.message)
    os.execve(python, [python, "-m", "ipykernel_launcher", *arguments], {**os.environ, **kernels.ENVIRONMENT})
