"""A full disk, places that can't be written, two at the same time, and a clock that jumps back."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from opensci_lib import kernels, project
from tests import tally
from tests.faults.disturbed import beside, command, finish, sentence, tree, with_table
from tests.hand_made import make_run
from tests.hub import Hub

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a file system of so many bytes."""
    mounted = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def room_for(folder: Path) -> int:
    return sum(path.stat().st_size + 4096 for path in folder.iterdir())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_disk_that_is_full_in_the_middle_of_a_hotfix(source, small_disk, share):
    disk = small_disk(int(room_for(source) * share))
    with tally.case("a full disk, hotfix"):
        said = sentence(command("opensci", "hotfix", "--src_dir", source, "--dst_dir", disk / "fixed"))
        assert said.endswith("No space left on device: free some space.")
        assert beside(disk) == set()


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_disk_that_is_full_in_the_middle_of_a_download(hub, small_disk, share):
    """What arrived stays, for the next try, and is not taken for a whole model."""
    disk = small_disk(int(room_for(hub.folder) * share))
    words = command("opensci", "download", "org/name", "--local_dir", disk / "model")
    with tally.case("a full disk, download"):
        said = sentence(words, env=hub.environment)
        assert "No space left on device" in said
        assert not (disk / "model" / "download.json").exists()


def test_a_disk_that_is_full_when_an_index_is_written(small_disk):
    disk = small_disk(MIB)
    make_run(disk / "model")
    with_table(disk / "model")
    (disk / "model" / "index.html").write_text("the old one")
    with tally.case("a full disk, index"):
        with pytest.raises(OSError, match="No space"), (disk / "rest").open("wb", buffering=0) as rest:
            while rest.write(bytes(4096)):
                pass
        said = sentence(command("opensci", "index", "--output_dir", disk / "model"))
        assert said.endswith("No space left on device: free some space.")
        assert (disk / "model" / "index.html").read_text() == "the old one"
        (disk / "rest").unlink()
        finish(command("opensci", "index", "--output_dir", disk / "model"))
        assert {path.name for path in (disk / "model").iterdir()} == {"4.48.0", "index.html", "parity.csv"}


@pytest.mark.kernel
def test_a_disk_that_is_full_when_a_run_is_written(source, small_disk, request):
    disk = small_disk(MIB)
    request.addfinalizer(lambda: shutil.rmtree(project.OUTPUTS / source.name, ignore_errors=True))
    asked = {"tf_version": "5.2.0", "model": str(source), "variants": ["fixed"], "output_dir": str(disk / "5.2.0")}
    words = ["papermill", "--no-progress-bar", "notebooks/infer.ipynb", source.parent / "out.ipynb", "-y"]
    with tally.case("a full disk, run"):
        said = sentence(command(*words, json.dumps(asked)))
        assert "No space left on device" in said
        assert not (disk / "5.2.0" / "fixed" / "run.json").exists()


def test_a_disk_that_is_full_when_an_environment_is_built(small_disk):
    disk = small_disk(8 * MIB)
    (disk / "environments").mkdir()
    shutil.copy(Path("environments/transformers-5.23.0.txt").resolve(), disk / "environments")
    with tally.case("a full disk, build"):
        words = command("python", "-m", "opensci_lib", "kernels", "build", "5.23.0")
        code = BUILD.format(environments=disk / "environments", words=words[3:])
        said = sentence(command("python", "-c", code))
        assert "no space is left on the disk" in said or "No space left" in said
        assert beside(disk / "environments") == {"transformers-5.23.0.txt"}


BUILD = """
from pathlib import Path
from opensci_lib import cli, project

project.ENVIRONMENTS = Path("{environments}")
project.driver_prefix = lambda: Path("{environments}").parent / "driver"
cli.main({words})
"""


@pytest.fixture
def read_only(tmp_path):
    """A file system that can't be written, which root feels as well."""
    place = tmp_path / "read only"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ["hotfix", "--src_dir", "miniature", "--dst_dir", "{place}/fixed"],
        ["download", "miniature", "--local_dir", "{place}/model"],
    ],
    ids=["hotfix", "download"],
)
def test_a_place_that_cannot_be_written(read_only, words):
    with tally.case("a read-only place"):
        said = sentence(command("opensci", *(word.format(place=read_only) for word in words)))
        assert said.endswith("Read-only file system: choose a place that can be written.")


#: Runs a command where this checkout can't be written, as a system may show it to its users.
_REMOUNTED = 'mount --bind . . && mount -o remount,ro,bind . && cd . && exec "$@"'
READ_ONLY = ["unshare", "--mount", "sh", "-c", _REMOUNTED, "-"]


@pytest.mark.mount
@pytest.mark.kernel
def test_a_read_only_checkout(source, tmp_path):
    """It works where nothing has to be built; what has to be is refused in a sentence."""
    kernels.build("5.2.0")
    if "5.6.2" in kernels.installed():
        kernels.remove("5.6.2")
    notebook = ["papermill", "--no-progress-bar", "notebooks/infer.ipynb", tmp_path / "out.ipynb", "-p", "tf_version"]
    refused = "Read-only file system: choose a place that can be written."
    with tally.case("a read-only checkout"):
        fixed = tmp_path / "fixed"
        finish([*READ_ONLY, *command("opensci", "hotfix", "--src_dir", source, "--dst_dir", fixed)])
        words = ["--model_path", fixed, "--tf_version", "5.2.0", "--prompt", "The capital of Japan is"]
        assert " Tokyo" in finish([*READ_ONLY, *command("opensci", "infer", *words)]).stdout
        for words in (["opensci", "kernels", "build", "5.6.2"], [*notebook, "5.6.2"], [*notebook, "5.2.0"]):
            assert sentence([*READ_ONLY, *command(*words)]).endswith(refused)


def test_a_home_that_cannot_be_written(read_only, source):
    environment = {**os.environ, "HOME": str(read_only), "XDG_CACHE_HOME": str(read_only), "HF_HOME": str(read_only)}
    with tally.case("a home that can't be written"):
        finish(command("opensci", "hotfix", "--src_dir", source), env=environment)
        finish(command("opensci", "hotfix", "--src_dir", source, "--diff"), env=environment)


def test_a_clock_that_jumps_back(source):
    """Weights of another time are others; a fixed folder from the future is still known for what it is."""
    words = command("opensci", "hotfix", "--src_dir", source)
    finish(words)
    fixed = source.with_name("model_fixed")
    future = time.time() + 10**6
    for path in [*fixed.iterdir(), *source.iterdir()]:
        if path.suffix != ".safetensors":
            os.utime(path, (future, future))
    with tally.case("a clock that jumps back"):
        assert "up to date" in finish(words).stdout


def test_hotfixes_of_one_folder_at_the_same_time(source):
    words = command("opensci", "hotfix", "--src_dir", source)
    with tally.case("hotfixes at the same time"):
        both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        said = [process.communicate(timeout=120)[0] for process in both]
        assert [process.returncode for process in both] == [0] * 4
        assert sum("written (" in text for text in said) == 1
        assert beside(source.parent) == {"model", "model_fixed"}


@pytest.mark.long
def test_two_builds_of_one_environment(tmp_path):
    environments = tmp_path / "environments"
    environments.mkdir()
    shutil.copy(Path("environments/transformers-5.23.0.txt").resolve(), environments)
    code = BUILD.format(environments=environments, words=["kernels", "build", "5.23.0"])
    with tally.case("builds at the same time"):
        both = [subprocess.Popen(command("python", "-c", code), stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=500)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sum("Building the environment" in text for text in said) == 1
        assert beside(environments) == {"transformers-5.23.0.txt", "transformers-5.23.0"}


def test_a_connection_that_breaks_in_the_middle_of_a_shard(hub: Hub, tmp_path):
    """The transfer goes on where it broke, by a range request, and what arrived is compared with the Hub's hash."""
    hub.folder = shutil.copytree(hub.folder, tmp_path / "large")
    save_file({"weight": np.arange(6 * MIB, dtype=np.float32)}, hub.folder / "model.safetensors")
    size = (hub.folder / "model.safetensors").stat().st_size
    hub.cut_after = 22 * MIB
    with tally.case("a connection that breaks"):
        words = command("opensci", "download", "org/name", "--local_dir", tmp_path / "model")
        finish(words, env=hub.environment)
        sent = [(asked, count) for name, asked, count in hub.transfers if name == "model.safetensors"]
        kept = 20 * MIB  # whole pieces of 10 MiB, as the library writes them
        assert sent == [(None, 22 * MIB), (f"bytes={kept}-", size - kept)]
        whole = tree(hub.folder)
        assert tree(tmp_path / "model")["model.safetensors"] == whole["model.safetensors"]


def test_what_arrives_spoiled_is_not_kept(hub: Hub, tmp_path):
    content = bytearray((hub.folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    hub.spoiled["model.safetensors"] = bytes(content)
    words = command("opensci", "download", "org/name", "--local_dir", tmp_path / "model")
    with tally.case("a shard that arrives spoiled"):
        said = sentence(words, env=hub.environment)
        assert "model.safetensors" in said
        assert not (tmp_path / "model" / "download.json").exists()
        finish(words, env=hub.environment)
        assert json.loads((tmp_path / "model" / "download.json").read_text())["commit"] == hub.commits["main"]
