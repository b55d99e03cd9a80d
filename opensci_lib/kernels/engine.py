"""A papermill engine that runs a notebook under the transformers release that its `tf_version` names.

It is papermill's default engine wherever this package is installed, so that neither `-k` nor
`--engine` is needed; a notebook without a `tf_version` keeps its own kernel. papermill loads this
module while it is imported itself: import papermill, not this.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.models import Parameter
from papermill.translators import PythonTranslator
from papermill.utils import find_first_tagged_cell_index
from traitlets.config import Config

from opensci_lib import kernels
from opensci_lib.errors import OpensciError, said_of_the_machine
from opensci_lib.runs.failure import record_failure
from opensci_lib.scratch import scratch


class TransformersEngine(NBClientEngine):
    """Picks, and if need be builds, the kernel of a release or of vLLM, and speaks to it over IPC instead of TCP."""

    @classmethod
    def nb_kernel_name(cls, nb: NotebookNode, name: str | None = None) -> str:
        """Return the kernel to run `nb` under: `name`, else that of its `tf_version`, else its own."""
        tf_version = _tf_version(nb)
        if tf_version is not None:
            name = name or kernels.kernel_name(tf_version, _engine(nb))
        return super().nb_kernel_name(nb, name)

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, *args: Any, **kwargs: Any) -> NotebookNode:
        """Run `nb` and return it.

        Raises:
            OpensciError: Before anything runs or is written: a parameter is not of the type that its cell says,
                `kernel_name` contradicts `tf_version`, or its environment can't be built. Later: the kernel died,
                or a cell raised one.
        """
        _check_types(nb)
        # papermill asked nb_kernel_name just now, so only a kernel given by the user can differ.
        tf_version = _tf_version(nb)
        if tf_version is not None and kernel_name != (wanted := kernels.kernel_name(tf_version, _engine(nb))):
            raise OpensciError(
                f"Kernel {kernel_name} contradicts tf_version {tf_version}: leave it out, or ask for {wanted}."
            )
        engine, _, version = kernel_name.rpartition("-")
        if tf_version is not None or engine in kernels.ENGINES:
            with said_of_the_machine():
                kernels.build(version, nb.metadata.get("opensci", {}).get("layer"), engine)
            nb.metadata.kernelspec = {
                "name": kernel_name,
                "display_name": kernels.display_name(version, engine),
                "language": "python",
            }
        done = super().execute_notebook(nb, kernel_name, *args, **kwargs)
        for output in (output for cell in done.cells for output in cell.get("outputs", [])):
            if output.output_type == "error" and output.ename == OpensciError.__name__:
                raise OpensciError(output.evalue)  # a sentence for the user, where papermill would print a traceback
        return done

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        """Run the cells with sockets in a folder of their own, which ends with the run."""
        # TCP ports are picked before the kernel binds them, so runs side by side may take one another's.
        # A Unix socket's path has at most some 100 characters, and TMPDIR may be longer.
        # transformers copies a model's code to a cache that runs share, and another may import it half copied.
        with (
            scratch("/tmp") as folder,
            patch.dict(os.environ, {"HF_MODULES_CACHE": f"{folder}/modules"}),
        ):
            manager = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
            try:
                return super().execute_managed_notebook(
                    nb_man, kernel_name, *args, config=Config({"KernelManager": manager}), **kwargs
                )
            except (DeadKernelError, RuntimeError) as error:
                if not isinstance(error, DeadKernelError) and "Kernel died" not in str(error):  # while it started
                    raise
                sentence = (
                    f"The kernel {kernel_name} died while it ran the notebook, most often because memory ran out:"
                    " take a smaller model or batch, or a machine with more memory."
                )
                _record(nb_man.nb, sentence)
                raise OpensciError(sentence) from error
            except CellTimeoutError as error:
                sentence = (
                    f"A cell took more than {kwargs.get('execution_timeout')} seconds under {kernel_name}:"
                    " find out what it waits for, or raise the limit (cell_timeout in config.yaml)."
                )
                _record(nb_man.nb, sentence)
                raise OpensciError(sentence) from error


def _record(nb: NotebookNode, sentence: str) -> None:
    """Write down why a notebook that computes runs came to no end; its metadata name the record of a run."""
    if record := nb.metadata.get("opensci", {}).get("record"):
        record_failure(record, sentence, nb.metadata.get("papermill", {}).get("parameters", {}))


def _check_types(nb: NotebookNode) -> None:
    """Compare the parameters passed with the types that the notebook gives them; one whose default is None may be."""
    passed = nb.metadata.get("papermill", {}).get("parameters", {})
    for parameter in _parameters(nb):
        fits, words = _TYPES.get(parameter.inferred_type_name, (None, ""))
        value = passed.get(parameter.name)
        is_default = value is None and (parameter.name not in passed or parameter.default == "None")
        if fits and not is_default and not fits(value):
            raise OpensciError(
                f"The parameter {parameter.name} is {words}, and not {repr(value)[:60]}: "
                "give another (-r gives a text as it is, -y lists)."
            )


def _is_text(value: Any) -> bool:
    """Say whether a value is a text that a file can hold: half of a surrogate pair is none."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()


#: What parameters may be, by the types that notebooks write behind their names.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (_is_text, "a text"),
    "int": (lambda value: type(value) is int and value >= 0, "a whole number that is not negative"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "list[str]": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
}


def _parameters(nb: NotebookNode) -> list[Parameter]:
    """Return the parameters in a notebook's cell of them: name, type, default as it is written."""
    index = find_first_tagged_cell_index(nb, "parameters")
    return PythonTranslator.inspect(nb.cells[index]) if index >= 0 else []


def _value(nb: NotebookNode, name: str) -> Any:
    """Return a parameter of a notebook: the one passed, else the default in its cell, else None."""
    passed = nb.metadata.get("papermill", {}).get("parameters", {})
    defaults = {parameter.name: parameter.default for parameter in _parameters(nb)}
    return passed[name] if name in passed else ast.literal_eval(defaults.get(name, "None"))


def _tf_version(nb: NotebookNode) -> str | None:
    """Return the release that a notebook asks for."""
    return _value(nb, "tf_version")


def _engine(nb: NotebookNode) -> str:
    """Return what is to run the models of a notebook: vLLM, or the release itself, which is `hf`."""
    return {None: "transformers", "hf": "transformers"}.get(backend := _value(nb, "backend"), backend)


papermill_engines.register(None, TransformersEngine)
