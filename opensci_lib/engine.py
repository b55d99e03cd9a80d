"""A papermill engine that runs a notebook under the transformers release that its `tf_version` names.

It is papermill's default engine wherever this package is installed, so that neither `-k` nor
`--engine` is needed; notebooks without a `tf_version` run as they always did.
"""

from __future__ import annotations

import ast
import os
import tempfile
from pathlib import Path
from typing import Any

from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, papermill_engines
from traitlets.config import Config

from opensci_lib import kernels
from opensci_lib.errors import OpensciError


class TransformersEngine(NBClientEngine):
    """Picks, and if need be builds, the kernel of a release, and talks to it over IPC instead of TCP ports."""

    @classmethod
    def nb_kernel_name(cls, nb: NotebookNode, name: str | None = None) -> str:
        """Return the kernel to run `nb` under; `name` is the one asked for with `-k`, or None.

        Raises:
            OpensciError: when `name` contradicts the notebook's `tf_version`.

        """
        tf_version = _tf_version(nb)
        if tf_version is None:
            return super().nb_kernel_name(nb, name)
        wanted = kernels.kernel_name(tf_version)
        if name not in (None, wanted):
            raise OpensciError(f"-k {name} contradicts tf_version {tf_version}: leave -k out, or ask for {wanted}.")
        return wanted

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, **options: Any) -> NotebookNode:
        """Run `nb`; what a cell says in an OpensciError becomes the command's own one sentence."""
        prefix = kernels.kernel_name("")
        if kernel_name.startswith(prefix):
            kernels.build(kernel_name.removeprefix(prefix))
        done = super().execute_notebook(nb, kernel_name, **options)
        for cell in done.cells:
            for output in cell.get("outputs", []):
                if output.output_type == "error" and output.ename == OpensciError.__name__:
                    raise OpensciError(output.evalue)
        return done

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Run the cells over IPC: a batch run opens no TCP port that other users of a machine could reach."""
        # Unix sockets allow about 100 characters of path, which Jupyter's own runtime folder may exceed.
        with tempfile.TemporaryDirectory(prefix="opensci-", dir=None if os.name == "nt" else "/tmp") as folder:
            manager = {"connection_file": str(Path(folder) / "kernel.json")}
            if os.name != "nt":  # Windows has no Unix sockets for ZeroMQ
                manager["transport"] = "ipc"
            try:
                return super().execute_managed_notebook(
                    nb_man, kernel_name, config=Config({"KernelManager": manager}), **options
                )
            except DeadKernelError as error:
                raise OpensciError(
                    f"The kernel {kernel_name} died while it ran the notebook: most often memory ran out. "
                    "Choose a smaller model, dtype or prompt, or a machine with more memory."
                ) from error


def _tf_version(nb: NotebookNode) -> str | None:
    """Return the release that a notebook is to run under: the parameter given, else its default."""
    given = nb.metadata.get("papermill", {}).get("parameters", {})
    if "tf_version" in given:
        return given["tf_version"]
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "tf_version":
                    return ast.literal_eval(node.value)
    return None


papermill_engines.register(None, TransformersEngine)
