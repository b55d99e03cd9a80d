"""The one error of this package."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

#: What the machine may lack, by the number of the system's error, and what to do.
_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that you may use",
    errno.EPERM: "choose a place that you may use",
    errno.EMFILE: "raise the limit (`ulimit -n`)",
}


def without_home(text: str) -> str:
    """Return a text with the user's home written as "~", as shells do: what is shown may be passed on."""
    home = str(Path.home())
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text


class OpensciError(click.ClickException):
    """Something the user can put right, said in one sentence.

    Every command line that may carry it (`opensci`, `papermill`) is built on click, which prints
    the sentence and exits with status 1 instead of showing a traceback.
    """

    def __init__(self, message: str):
        # What came from a file's name or content may hold line ends, or what a terminal obeys.
        shown = (
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in without_home(message)
        )
        super().__init__("".join(shown))

    def __str__(self) -> str:
        """Return the sentence itself, for notebooks and logs."""
        return self.message


@contextmanager
def said_of_the_machine() -> Generator[None]:
    """Say in a sentence what the machine lacks; other errors of the system are our own.

    Raises:
        OpensciError: no space on the disk, a place that can't be written, and the like.

    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CURES:
            raise
        where = error.filename2 or error.filename
        what = f"{where}: {error.strerror}" if where else error.strerror
        raise OpensciError(f"{what}: {_CURES[error.errno]}.") from error


class Commands(click.Group):
    """Commands that say in a sentence what the machine lacks."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        with said_of_the_machine():
            return super().invoke(ctx)
