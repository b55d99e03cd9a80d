"""Folders for a while, which go even where the process that made one was killed: the next one removes it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

#: Held by the process that made a folder for as long as it lives.
_LOCK = ".running"


@contextmanager
def scratch(parent: Path | str | None = None) -> Generator[Path]:
    """Yield a new folder in the system's own place or in `parent`; it vanishes when the block ends."""
    place = Path(parent or tempfile.gettempdir())
    for left in place.glob(f"opensci-*/{_LOCK}"):
        _remove_if_left(left)
    folder, lock = _made(place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        lock.release()


def _made(place: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix="opensci-", dir=place))
        lock = FileLock(folder / _LOCK)
        lock.acquire()
        if (folder / _LOCK).exists():
            return folder, lock
        lock.release()  # another process took it for one that was left, in the instant before it was locked


def _remove_if_left(file: Path) -> None:
    """Remove the folder of a lock that nobody holds any more; that of another user is theirs to remove."""
    try:
        with FileLock(file, blocking=False):
            shutil.rmtree(file.parent)
    except (Timeout, PermissionError, FileNotFoundError):  # in use, another user's, or removed meanwhile
        return
