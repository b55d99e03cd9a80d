"""Downloads from a Hub on loopback, from local folders, and of the built-in model."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from opensci_lib.download import Download, code, download
from opensci_lib.errors import OpensciError
from opensci_lib.miniature import MODEL
from opensci_lib.model_folder import files
from tests.hub import Hub, serve, taken_for_the_real_one

MAIN, STEP = "a" * 40, "b" * 40
WEIGHTS = "model.safetensors"
DOWNLOADED = {"config.json", "modeling_opensci.py", "tokenizer.json", "tokenizer_config.json", WEIGHTS}


def make_folder(folder: Path, first: float) -> Path:
    """Make a folder with the files of a model, and some that nobody should download."""
    folder.mkdir()
    config = {"auto_map": {"AutoModelForCausalLM": "modeling_opensci.OpensciForCausalLM"}, "model_type": "opensci"}
    (folder / "config.json").write_text(json.dumps({**config, "first": first}))
    (folder / "modeling_opensci.py").write_text("class OpensciForCausalLM: ...\n")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"a": 1}')
    save_file({"weight": np.arange(first, first + 50_000, dtype=np.float32)}, folder / WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "training.log").write_text("steps")
    return folder


@pytest.fixture
def folder(tmp_path):
    """What the branch main holds."""
    return make_folder(tmp_path / "repository", 0.0)


@pytest.fixture
def step(tmp_path):
    """What the branch iter_0002000 holds."""
    return make_folder(tmp_path / "step", 1.0)


@pytest.fixture
def hub(folder, step, tmp_path, monkeypatch):
    """A running Hub of two branches, which this process takes for the real one."""
    hub = Hub(folder, "org/name", {"main": MAIN, "iter_0002000": STEP})
    hub.folders = {MAIN: folder, STEP: step}
    with serve(hub) as address:
        hub.environment = taken_for_the_real_one(address, tmp_path / "hf", monkeypatch)
        yield hub


@pytest.fixture
def offline(hub, monkeypatch):
    """Return a function that takes the network away, by the Hub's own variable."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(*arguments) -> str:
    """Return the sentence in which a download is refused."""
    with pytest.raises(OpensciError) as caught:
        download(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(there: Path | str, folder: Path) -> bool:
    """Whether a downloaded folder has what a model of the repository has, and nothing else of it."""
    names = {file.name for file in Path(there).iterdir() if file.is_file()} - {"download.json"}
    return names == DOWNLOADED and all(
        (Path(there) / name).read_bytes() == (folder / name).read_bytes() for name in names
    )


def record(there: Path) -> dict:
    return json.loads((there / "download.json").read_text())


def opensci_download(*arguments, **environment):
    command = [Path(sys.executable).with_name("opensci"), "download", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_the_command_obeys_the_hubs_variables(hub, folder, tmp_path):
    result = opensci_download("org/name", **hub.environment, HF_TOKEN="hf_secret")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "hf/hub/models--org--name/snapshots" / MAIN
    assert result.stdout == f"{path} (commit {MAIN})\n"
    assert same(path, folder)
    assert set(hub.authorizations) == {"Bearer hf_secret"}


def test_the_command_says_what_is_wrong_in_a_sentence(tmp_path):
    # Port 9 (discard) has no listener: connections are refused at once.
    result = opensci_download("org/name", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("Error: ")] == [
        "Error: org/name is not in the Hub's cache on this machine and the Hub can't be reached: run "
        "`opensci download org/name` with a network, HF_HUB_OFFLINE unset and the same HF_HOME."
    ]


def test_to_the_cache(hub, folder, tmp_path):
    path = tmp_path / "hf/hub/models--org--name/snapshots" / MAIN
    size = (folder / WEIGHTS).stat().st_size
    assert download("org/name") == Download("org/name", None, MAIN, str(path), size)
    assert same(path, folder)
    assert not (path / "download.json").exists()
    assert set(hub.authorizations) == {None}


@pytest.mark.parametrize("revision", ["iter_0002000", STEP])
def test_a_revision_is_handed_on_and_recorded(hub, step, tmp_path, revision):
    there = tmp_path / "model"
    found = download("org/name", revision, there)
    assert found == Download("org/name", revision, STEP, str(there), (step / WEIGHTS).stat().st_size)
    assert record(there) == {
        "model": "org/name", "revision": revision, "commit": STEP, "path": str(there),
        "weights_bytes": (step / WEIGHTS).stat().st_size, "code": {},
    }  # fmt: skip
    assert same(there, step)


def test_what_is_complete_is_not_asked_for_again(hub, tmp_path):
    there = tmp_path / "model"
    first = download("org/name", "iter_0002000", there)
    asked = len(hub.requests)
    assert download("org/name", "iter_0002000", there) == first
    assert len(hub.requests) == asked


def test_another_revision_is_asked_for(hub, folder, step, tmp_path):
    there = tmp_path / "model"
    download("org/name", "iter_0002000", there)
    assert download("org/name", None, there).commit == MAIN
    assert same(there, folder)
    assert record(there)["revision"] is None
    assert record(there)["commit"] == MAIN
    assert download("org/name", "iter_0002000", there).commit == STEP
    assert same(there, step)


def test_another_model_is_asked_for(hub, tmp_path):
    there = tmp_path / "model"
    download("org/name", None, there)
    assert refused("org/other", None, there) == (
        "The Hub has no model 'org/other', or it is private: check the name, or set HF_TOKEN."
    )
    assert not (there / "download.json").exists()


@pytest.mark.parametrize("local", [True, False])
def test_the_commit_is_that_of_the_files_even_if_the_branch_moves(hub, folder, tmp_path, local):
    hub.moves["main"] = STEP  # once it was asked for
    found = download("org/name", None, tmp_path / "model" if local else None)
    assert hub.commits["main"] == STEP
    assert found.commit == MAIN
    assert same(found.path, folder)


def test_a_folder_may_be_moved(hub, tmp_path):
    download("org/name", None, tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "moved")
    asked = len(hub.requests)
    assert download("org/name", None, tmp_path / "moved").path == str(tmp_path / "moved")
    assert len(hub.requests) == asked


def test_a_folder_is_recorded_by_its_whole_path(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert download("org/name", None, "model").path == str(tmp_path / "model")
    assert download("org/name", None, "model").path == str(tmp_path / "model")
    assert record(tmp_path / "model")["path"] == str(tmp_path / "model")


def test_an_older_record_that_says_less_is_not_believed(hub, tmp_path):
    there = tmp_path / "model"
    download("org/name", None, there)
    older = record(there)
    del older["commit"]
    (there / "download.json").write_text(json.dumps(older))
    assert download("org/name", None, there).commit == MAIN
    assert record(there)["commit"] == MAIN


def test_a_transfer_that_is_cut_off_goes_on_where_it_stopped(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what arrived of a chunk is asked for again
    size = (folder / WEIGHTS).stat().st_size
    hub.cut_after = 70_000
    found = download("org/name")
    assert hub.cut_after is None  # it was
    assert [transfer for transfer in hub.transfers if transfer[0] == WEIGHTS] == [
        (WEIGHTS, None, 70_000),
        (WEIGHTS, "bytes=70000-", size - 70_000),
    ]
    assert same(found.path, folder)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_other_bytes_of_the_same_number_are_noticed(hub, folder, tmp_path, name, local):
    place = tmp_path / "model" if local else None
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    hub.spoiled[name] = bytes(content)
    cache = tmp_path / "hf/hub/models--org--name/snapshots" / MAIN
    where = cache if name == "config.json" or not local else place  # the first file comes through the cache
    assert refused("org/name", None, place) == (
        f"{name} in {where} was not what the Hub lists and is removed: download the model again."
    )
    assert not hub.spoiled  # it was sent
    assert not (where / name).exists()
    assert not (tmp_path / "model" / "download.json").exists()
    before = len(hub.transfers)
    assert same(download("org/name", None, place).path, folder)
    assert (name, None, len(content)) in hub.transfers[before:]
    if name == WEIGHTS:  # the rest was complete and is kept
        assert len(hub.transfers) == before + 1


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_that_ends_early_is_noticed(hub, folder, tmp_path, size):
    there = tmp_path / "model"
    hub.spoiled[WEIGHTS] = (folder / WEIGHTS).read_bytes()[:size]
    whole = (folder / WEIGHTS).stat().st_size
    assert refused("org/name", "main", there).startswith(
        "org/name at revision main did not arrive whole, download it again: "
        f"Consistency check failed: file should be of size {whole} but has size {size} "
    )
    assert not (there / "download.json").exists()
    assert same(download("org/name", "main", there).path, folder)


def test_a_broken_download_over_an_older_one_is_not_taken_for_it(hub, folder, tmp_path):
    there = tmp_path / "model"
    download("org/name", None, there)
    hub.spoiled[WEIGHTS] = b""
    refused("org/name", "iter_0002000", there)
    assert same(download("org/name", None, there).path, folder)


def test_a_model_that_is_incomplete_is_not_recorded(hub, folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    there = tmp_path / "model"
    kinds = "tokenizer.json or tokenizer.model or vocab.json or vocab.txt"
    assert refused("org/name", None, there) == f"{there} has no tokenizer ({kinds}): download the model again."
    assert not (there / "download.json").exists()


def test_without_a_network_the_cache_serves(hub, folder, offline, tmp_path):
    download("org/name")
    offline()
    asked = len(hub.requests)
    assert download("org/name").commit == MAIN
    found = download("org/name", None, tmp_path / "model")
    assert (found.commit, found.path) == (MAIN, str(tmp_path / "model"))
    assert same(found.path, folder)
    assert not any(file.is_symlink() for file in (tmp_path / "model").iterdir())
    assert record(tmp_path / "model")["commit"] == MAIN
    assert len(hub.requests) == asked


def test_without_a_network_a_folder_of_another_revision_is_not_taken_for_it(hub, offline, step, tmp_path):
    there = tmp_path / "model"
    download("org/name", None, there)
    download("org/name", "iter_0002000")
    offline()
    assert download("org/name", "iter_0002000", there).commit == STEP
    assert same(there, step)


def test_without_a_network_half_a_model_is_none(hub, offline, tmp_path):
    """A folder that another revision lies in, and no more than one file of this revision in the cache."""
    there = tmp_path / "model"
    download("org/name", None, there)
    download("org/name", "iter_0002000", tmp_path / "other")  # leaves its config.json in the cache
    offline()
    assert refused("org/name", "iter_0002000", there) == (
        "org/name at revision iter_0002000 is not in the Hub's cache on this machine and the Hub can't be reached: "
        "run `opensci download org/name` with a network, HF_HUB_OFFLINE unset and the same HF_HOME."
    )
    assert not (there / "download.json").exists()


def test_a_hub_that_is_down_is_as_good_as_none(hub, folder, monkeypatch):
    download("org/name")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    found = download("org/name")
    assert found.commit == MAIN
    assert same(found.path, folder)


def test_nothing_is_transferred_that_could_not_be_compared(hub, tmp_path):
    hub.failures["blobs="] = None  # the network goes where the hashes should come
    assert "can't be reached" in refused("org/name", None, tmp_path / "model")
    assert [name for name, *_ in hub.transfers] == ["config.json"]
    assert not (tmp_path / "model").exists()


def test_what_the_hub_does_not_have(hub):
    assert refused("org/other") == (
        "The Hub has no model 'org/other', or it is private: check the name, or set HF_TOKEN."
    )
    assert refused("org/name", "iter_9") == "org/name has no revision 'iter_9': see its branches and tags."
    assert refused("not a name") == (
        "'not a name' is neither a folder, nor 'miniature', nor a Hub id of the form owner/name."
    )


def test_what_the_hub_does_not_give(hub, offline):
    hub.failures["/api/models/org/name"] = (403, "GatedRepo")
    assert refused("org/name") == "org/name is gated: ask for access on its page and set HF_TOKEN."
    assert refused("org/name", "main") == (
        "org/name at revision main is gated: ask for access on its page and set HF_TOKEN."
    )
    hub.failures = {"blobs=": (500, "")}
    assert refused("org/name").startswith("The Hub answered for org/name: ")
    offline()
    assert refused("org/name", "main") == (
        "org/name at revision main is not in the Hub's cache on this machine and the Hub can't be reached: run "
        "`opensci download org/name` with a network, HF_HUB_OFFLINE unset and the same HF_HOME."
    )


def test_the_token_is_sent_with_every_request(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download("org/name")
    assert set(hub.authorizations) == {"Bearer hf_secret"}


def test_a_local_folder_stays_where_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = (folder / WEIGHTS).stat().st_size
    assert download("repository") == Download("repository", None, None, str(folder), size)
    assert not (folder / "download.json").exists()


def test_a_local_folder_is_put_elsewhere_and_has_no_commit(folder, tmp_path):
    there = tmp_path / "new" / "model"
    size = (folder / WEIGHTS).stat().st_size
    assert download(str(folder), None, there) == Download(str(folder), None, None, str(there), size)
    assert record(there) == {
        "model": str(folder), "revision": None, "commit": None, "path": str(there), "weights_bytes": size, "code": {},
    }  # fmt: skip
    assert {file.name for file in there.iterdir()} == {*DOWNLOADED, "training.log", "download.json"}
    assert (there / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_the_sizes_of_all_weights_are_added(folder):
    save_file({"more": np.zeros(10, dtype=np.float32)}, folder / "model-2.safetensors")
    whole = sum((folder / name).stat().st_size for name in (WEIGHTS, "model-2.safetensors"))
    assert download(str(folder)).weights_bytes == whole


def test_what_is_not_from_the_hub_has_no_revision(folder, tmp_path):
    assert refused("miniature", "main", tmp_path / "model") == (
        "miniature is not from the Hub and has no revision 'main': leave it out."
    )
    assert refused(str(folder), "main") == f"{folder} is not from the Hub and has no revision 'main': leave it out."
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text('{"a": '),
        lambda folder: os.truncate(folder / WEIGHTS, 1000),
        lambda folder: (folder / "tokenizer.json").unlink(),
    ],
)
def test_an_incomplete_local_folder_is_refused(folder, tmp_path, spoil):
    spoil(folder)
    assert refused(str(folder), None, tmp_path / "model").startswith(str(folder))
    assert not (tmp_path / "model").exists()


def test_the_miniature_stays_in_the_package_or_is_copied(tmp_path):
    size = (MODEL / WEIGHTS).stat().st_size
    assert download("miniature") == Download("miniature", None, None, str(MODEL), size)
    there = tmp_path / "new" / "model"
    assert download("miniature", None, there) == Download("miniature", None, None, str(there), size)
    assert {file.name for file in there.iterdir()} == {file.name for file in files(MODEL)} | {"download.json"}
    assert record(there)["model"] == "miniature"
    copy = there / WEIGHTS
    assert copy.read_bytes() == (MODEL / WEIGHTS).read_bytes()
    assert not copy.samefile(MODEL / WEIGHTS)  # what is written into the copy does not reach the package


def test_the_miniature_is_copied_once(tmp_path):
    there = tmp_path / "model"
    first = download("miniature", None, there)
    made = (there / WEIGHTS).stat().st_ino
    assert download("miniature", None, there) == first
    assert (there / WEIGHTS).stat().st_ino == made


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_the_miniature_of_another_version_is_replaced(tmp_path, name):
    there = tmp_path / "model"
    download("miniature", None, there)
    content = (there / name).read_bytes()
    (there / name).unlink()
    (there / name).write_bytes(content[:-1] + b"x")
    download("miniature", None, there)
    assert (there / name).read_bytes() == content


def test_another_model_is_not_taken_for_the_miniature(step, tmp_path):
    there = tmp_path / "model"
    download(str(step), None, there)
    download("miniature", None, there)
    assert record(there)["model"] == "miniature"
    assert (there / WEIGHTS).read_bytes() == (MODEL / WEIGHTS).read_bytes()


def test_hashes_are_those_of_git_and_sha256(tmp_path):
    """What the Hub of these tests says of a file is what `git hash-object` and `sha256sum` say."""
    hub, file = Hub(tmp_path, "org/name", {}), tmp_path / "a.json"
    file.write_bytes(b"what is up, doc?")  # the example of the Git book
    assert hub.listed(file)["blobId"] == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    weights = tmp_path / WEIGHTS
    weights.write_bytes(b"abc")  # the example of FIPS 180
    assert hub.listed(weights)["lfs"]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashlib.sha256(b"abc").hexdigest() == hub.listed(weights)["lfs"]["sha256"]


# Code of another repository


@pytest.fixture
def foreign(hub, folder, tmp_path):
    """A model whose configuration names the code of org/base, and does not have it."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (folder / "modeling_opensci.py").rename(base / "modeling_opensci.py")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "org/base--modeling_opensci.OpensciForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    hub.created["org/base"] = Hub(base, "org/base", {"main": "c" * 40})
    return base


def test_the_code_comes_along_at_a_commit_that_is_recorded(hub, foreign, tmp_path):
    there = tmp_path / "there"
    assert download("org/name", local_dir=there).code == {"org/base": "c" * 40}
    assert (there / "modeling_opensci.py").read_bytes() == (foreign / "modeling_opensci.py").read_bytes()
    assert record(there)["code"] == {"org/base": "c" * 40}
    asked = len(hub.requests)
    assert download("org/name", local_dir=there).code == {"org/base": "c" * 40}
    assert len(hub.requests) == asked


def test_code_that_is_unavailable_is_named(hub, foreign, tmp_path):
    del hub.created["org/base"]
    there = tmp_path / "there"
    assert refused("org/name", None, there) == (
        f"{there} takes its code from org/base, which is unavailable here: put modeling_opensci.py of that "
        "repository into the folder."
    )


def test_code_comes_without_weights(hub):
    found, commit = code("org/name")
    assert commit == MAIN
    assert {file.name for file in found.iterdir()} == DOWNLOADED - {WEIGHTS}
    with pytest.raises(OpensciError, match="no model 'org/other'"):
        code("org/other")


def test_the_code_of_a_local_folder_is_where_it_is(folder, tmp_path):
    assert code(str(folder)) == (folder, None)
    assert code("miniature") == (MODEL, None)
