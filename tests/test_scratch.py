"""Folders for a while: they go with the block, and with the process that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opensci_lib.model_folder import alone, appearing
from opensci_lib.scratch import scratch

SCRATCH = """
import sys, time
from opensci_lib.scratch import scratch

with scratch(sys.argv[1]) as folder:
    (folder / "modules").mkdir()
    (folder / "modules" / "a.py").touch()
    print(folder, flush=True)
    time.sleep(60)
"""

APPEARING = """
import sys, time
from pathlib import Path
from opensci_lib.model_folder import alone, appearing

with alone(Path(sys.argv[1])), appearing(Path(sys.argv[1])) as folder:
    (folder / "new").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def started():
    """Return a function that starts a program and gives its process and the first line that it prints."""
    running = []

    def start(program: str, *arguments: object) -> tuple[subprocess.Popen, Path]:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return running[-1], Path(running[-1].stdout.readline().strip())

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_folder_for_a_while(tmp_path):
    with scratch(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path, started):
    killed, left = started(SCRATCH, tmp_path)
    kill(killed)
    assert (left / "modules" / "a.py").exists()
    with scratch(tmp_path) as folder:
        assert [*tmp_path.iterdir()] == [folder]


def test_what_a_living_process_has_stays(tmp_path, started):
    _, theirs = started(SCRATCH, tmp_path)
    with scratch(tmp_path) as folder:
        assert {*tmp_path.iterdir()} == {folder, theirs}
    assert (theirs / "modules" / "a.py").exists()


def test_folders_of_such_a_name_that_are_not_ours_stay(tmp_path):
    (tmp_path / "opensci-checkout").mkdir()
    with scratch(tmp_path):
        pass
    assert (tmp_path / "opensci-checkout").exists()


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()} - {f".{folder.name}.lock"}


def test_what_a_killed_process_had_begun_goes_with_the_next(tmp_path, started):
    folder = tmp_path / "model"
    killed, left = started(APPEARING, folder)
    kill(killed)
    assert beside(folder) == {left.name}
    with alone(folder):
        assert beside(folder) == set()


def test_what_a_living_process_is_writing_stays(tmp_path, started):
    """Another one waits for it; what is of other folders is left alone."""
    folder = tmp_path / "model"
    _, theirs = started(APPEARING, folder)
    with alone(tmp_path / "mode"), alone(tmp_path / "other"):
        assert (theirs / "new").exists()
    waiting, _ = subprocess.Popen([sys.executable, "-c", APPEARING, folder], stdout=subprocess.PIPE), None
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    assert (theirs / "new").exists()
    waiting.kill()
    waiting.communicate()


@pytest.mark.parametrize("name", [".model.original", ".model.backup_1", "model.partial-1", ".model_2.partial-1"])
def test_what_only_looks_alike_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    with alone(tmp_path / "model"), appearing(tmp_path / "model"):
        pass
    assert beside(tmp_path / "model") == {"model", name}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_after_a_crash_the_next_finds_a_whole_folder(tmp_path, renames):
    """Killed before, between and after the two renames: what stands then is the old folder, or the new one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    if (child := os.fork()) == 0:
        rename, done = os.rename, []

        def counted(*arguments):
            if len(done) == renames:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments)
            done.append(arguments)

        os.rename = counted
        os.rmdir = os.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        with alone(folder), appearing(folder) as partial:
            (partial / "new").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with alone(folder):
        assert [path.name for path in folder.iterdir()] == ["new" if renames == 2 else "old"]
        assert beside(folder) == {"model"}
