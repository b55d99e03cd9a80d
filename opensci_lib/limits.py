"""Work on what strangers wrote, in a process of its own with limits, so that no file takes the command down."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from opensci_lib.errors import OpensciError

#: What the work may take: seconds by the clock, and bytes of memory beyond those of the process that asks for it.
SECONDS = 60
MEMORY = 2**30

_STATM = Path("/proc/self/statm")  # of Linux, see proc(5)


def within_limits(work: Callable[[], Any], what: str, seconds: int = SECONDS, memory: int = MEMORY) -> Any:
    """Return what `work` returns, a JSON value, after it was computed in a copy of this process.

    The copy writes no files. Where the system does not tell how much memory this process has, that limit is not set.

    Raises:
        OpensciError: one that `work` raised, or the sentence that `what` is too much for the limits.

    """
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)  # or the copy, left alone, would wait for ever for a reader of its answer
        _answer(work, writing, seconds, memory)
    try:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        raise OpensciError(f"{what} takes more than {seconds} seconds to read: download the model again.")
    if status:
        raise OpensciError(
            f"{what} can't be read within {memory >> 20} MiB of memory, or is too deeply nested: "
            "download the model again."
        )
    outcome = json.loads(answer)
    if "fault" in outcome:
        raise RuntimeError(outcome["fault"])
    if "error" in outcome:
        raise OpensciError(outcome["error"])
    return outcome["value"]


def _answer(work: Callable[[], Any], writing: int, seconds: int, memory: int) -> NoReturn:
    """Do the work under the limits, write its outcome to the pipe and end."""
    try:
        faulthandler.disable()  # Jupyter's kernels turn it on, and a crash in here is an answer
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        if _STATM.exists():
            most = int(_STATM.read_text().split()[0]) * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            outcome = {"value": work()}
        except OpensciError as error:
            outcome = {"error": error.message}
        except MemoryError:
            raise
        except Exception:
            outcome = {"fault": traceback.format_exc()}
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(outcome).encode())
        os._exit(0)
    finally:  # whatever it was, the copy does not go on as this process
        os._exit(1)
