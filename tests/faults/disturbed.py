"""Commands that are disturbed while they run, and what is left of them."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from opensci_lib.reports.compare import find_runs, parity
from tests import tally

ROOT = Path(__file__).parents[2]
#: Moments at which a command is killed; `MOMENTS=20` for as many as SECURITY.md counts.
MOMENTS = int(os.environ.get("MOMENTS", "3"))


def command(*words: object) -> list[str]:
    """Return a command of this environment."""
    program, *arguments = words
    return [str(Path(sys.executable).with_name(str(program))), *map(str, arguments)]


def finish(words: list[str], **options) -> subprocess.CompletedProcess:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def sentence(words: list[str], of_the_kernel: bool = False, **options) -> str:
    """Return what a command says that is refused: one line, without a traceback but one of a kernel that was shot."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert of_the_kernel or "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    return errors[0].removeprefix("Error: ")


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(processes: list[psutil.Process], within: float = 15) -> bool:
    """Say whether processes end by themselves."""
    return not psutil.wait_procs(processes, within)[1]


def killed(words: list[str], seconds: float, sign: int = signal.SIGKILL, **options) -> list[psutil.Process]:
    """Start a command, send it a signal after so many seconds, and return the processes that it had started."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    time.sleep(seconds)
    children = descendants(process)
    process.send_signal(sign)
    process.wait(60)
    return children


def check_kills(
    kind: str, words: list[str], place: Path, content: Callable[[], object], again: Callable[[], None], **options
):
    """Kill a command at random moments: the next run gives what an undisturbed one gives, and nothing else stays.

    `content` tells what is in `place` that counts, and `again` makes it empty.
    """
    again()
    begun = time.monotonic()
    finish(words, **options)
    whole = time.monotonic() - begun
    expected, names = content(), beside(place)
    chance = random.Random(kind)
    for _ in range(MOMENTS):
        again()
        with tally.case(f"kill -9 of {kind}"):
            assert gone(killed(words, chance.uniform(0, whole), **options)), "it left processes behind"
            finish(words, **options)
            assert content() == expected
            assert beside(place) == names


def beside(place: Path) -> set[str]:
    """Return the names in a place, hidden ones too; locks may stay."""
    return {path.name for path in place.iterdir() if not path.name.endswith(".lock")} if place.exists() else set()


def tree(folder: Path, leave_out: Callable[[Path], bool] = lambda path: False) -> dict[str, str]:
    """Return all files below a folder and their hashes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and not leave_out(path)
    }


def with_table(outputs: Path) -> Path:
    """Write the table of the runs in a folder of results."""
    runs = find_runs(outputs)
    parity(runs[0], runs)[0].to_csv(outputs / "parity.csv", index=False)
    return outputs
