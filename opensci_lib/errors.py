"""The one error of this package."""

import click


class OpensciError(click.ClickException):
    """Something the user can put right, said in one sentence.

    Every command line that may carry it (`opensci`, `papermill`) is built on click, which prints
    the sentence and exits with status 1 instead of showing a traceback.
    """

    def __init__(self, message: str):
        # What came from a file's name or content may hold line ends, or what a terminal obeys.
        shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in message)
        super().__init__("".join(shown))

    def __str__(self) -> str:
        """Return the sentence itself, for notebooks and logs."""
        return self.message
