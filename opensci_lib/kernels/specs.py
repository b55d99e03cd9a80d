"""Offer the kernel of every locked release in JupyterLab, built or not.

`jupyter/` in the checkout holds the settings that make it JupyterLab's kernel spec manager wherever this package is
installed.
"""

from __future__ import annotations

import sys

from ipykernel.kernelspec import RESOURCES
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from opensci_lib import kernels


class ReleaseKernels(KernelSpecManager):
    """Knows the registered kernels and one for each other release with a lock file, which is built when it starts."""

    def find_kernel_specs(self) -> dict[str, str]:
        """Return {kernel name: the folder of its icons}."""
        return {
            kernels.kernel_name(version): RESOURCES for version in kernels.available()
        } | super().find_kernel_specs()

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return how a kernel is started.

        Raises:
            NoSuchKernel: it is neither registered nor of a release with a lock file.

        """
        try:
            return super().get_kernel_spec(kernel_name)
        except NoSuchKernel:
            version = kernel_name.removeprefix(kernels.kernel_name(""))
            if version not in kernels.available():
                raise
        return KernelSpec(
            argv=[sys.executable, "-m", "opensci_lib.kernels.launch", version, "-f", "{connection_file}"],
            display_name=f"{kernels.display_name(version)} (built when it is chosen)",
            language="python",
            metadata={"debugger": True},
        )
