"""Model folders: which are whole, what belongs to a copy, how files get there, and what a crash leaves."""

import errno
import fcntl
import json
import os
import resource
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import (
    announce,
    appearing,
    check_model_folder,
    check_processes,
    code_files,
    files,
    follow_umask,
    link,
    read_config,
    tied_twice,
    write_json,
)
from tests.hotfix.folder import make_folder

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write_tensors(path, spans, data: int, length: int | None = None):
    """Write a safetensors file by hand: {name: (start, end)} in its header, `data` bytes after it."""
    tensors = {name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
               for name, (start, end) in spans.items()}  # fmt: skip
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + bytes(data))


@pytest.fixture
def folder(tmp_path):
    """A folder that is whole, with one file of weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}')
    (folder / "modeling.py").write_text("class Model: ...\n")
    (folder / "tokenizer.json").write_text("{}")
    write_tensors(folder / "model.safetensors", {"a": (0, 4), "b": (4, 10)}, 10)
    return folder


@pytest.fixture
def sharded(folder):
    """The same with its weights in two files and an index."""
    (folder / "model.safetensors").unlink()
    write_tensors(folder / ONE, {"a": (0, 4)}, 4)
    write_tensors(folder / TWO, {"b": (0, 6), "c": (6, 7)}, 7)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": ONE, "b": TWO, "c": TWO}}))
    return folder


def refused(folder) -> str:
    """Return the sentence in which a folder is refused."""
    with pytest.raises(OpensciError) as caught:
        check_model_folder(folder)
    return str(caught.value)


def test_a_whole_folder_is_returned_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert check_model_folder("model") == folder
    assert check_model_folder(folder) == folder


def test_a_whole_folder_in_shards(sharded):
    assert check_model_folder(sharded) == sharded


def test_a_file_without_tensors_is_whole(folder):
    write_tensors(folder / "model.safetensors", {}, 0)
    assert check_model_folder(folder) == folder


@pytest.mark.parametrize(
    "spans", [{"b": (4, 10), "a": (0, 4)}, {"a": (0, 0), "b": (0, 10)}, {"a": (0, 10), "b": (10, 10)}]
)
def test_tensors_may_stand_in_any_order_and_be_empty(folder, spans):
    write_tensors(folder / "model.safetensors", spans, 10)
    assert check_model_folder(folder) == folder


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"])
def test_any_kind_of_tokenizer_will_do(folder, name):
    (folder / "tokenizer.json").rename(folder / name)
    assert check_model_folder(folder) == folder


def test_what_is_missing_is_named(folder):
    (folder / "tokenizer.json").unlink()
    kinds = "tokenizer.json or tokenizer.model or vocab.json or vocab.txt"
    assert refused(folder) == f"{folder} has no tokenizer ({kinds}): download the model again."
    (folder / "model.safetensors").unlink()
    assert refused(folder) == f"model.safetensors is missing in {folder}: download the model again."
    (folder / "modeling.py").unlink()
    assert refused(folder).startswith(
        f"{folder} has no modeling.py, which its config.json or code names: download it"
    )
    (folder / "config.json").unlink()
    assert refused(folder) == f"{folder} is no model folder: it has no config.json."
    assert refused(folder / "no") == f"{folder / 'no'} is not a folder: give the folder of a model."


def test_weights_of_another_name_are_none(folder):
    """transformers reads model.safetensors or what an index names, so a shard without an index is not read."""
    (folder / "model.safetensors").rename(folder / ONE)
    assert refused(folder) == f"model.safetensors is missing in {folder}: download the model again."


@pytest.mark.parametrize("data", [9, 11])
def test_a_byte_more_or_less_than_promised_is_noticed(folder, data):
    weights = folder / "model.safetensors"
    write_tensors(weights, {"a": (0, 4), "b": (4, 10)}, data)
    assert refused(folder) == f"{weights} is cut off or no safetensors file: download it again."


@pytest.mark.parametrize(
    "spans",
    [
        {"a": (0, 4), "b": (5, 10)},  # a byte between two tensors
        {"a": (1, 4), "b": (4, 10)},  # a byte before the first
        {"a": (0, 5), "b": (4, 10)},  # a byte of two tensors
        {"a": (0, 10), "b": (0, 10)},
    ],
)
def test_tensors_follow_one_another(folder, spans):
    weights = folder / "model.safetensors"
    write_tensors(weights, spans, 10)
    assert refused(folder) == f"{weights} is cut off or no safetensors file: download it again."


@pytest.mark.parametrize("length", [10_000, 2**62])
def test_a_header_longer_than_the_file(folder, length):
    weights = folder / "model.safetensors"
    write_tensors(weights, {"a": (0, 4), "b": (4, 10)}, 10, length=length)
    assert refused(folder) == f"{weights} is cut off or no safetensors file: download it again."


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b"1", b"\xff\xff", b'{"a": 1}', b'{"a": {}}', b'{"a": {"data_offsets": [0]}}']
)
def test_a_header_that_is_none(folder, header):
    weights = folder / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    assert refused(folder) == f"{weights} is cut off or no safetensors file: download it again."


@pytest.mark.parametrize("shard", [ONE, TWO])
def test_every_shard_is_checked(sharded, shard):
    path = sharded / shard
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert refused(sharded) == f"{path} is cut off or no safetensors file: download it again."
    path.unlink()
    assert refused(sharded) == f"{shard} is missing in {sharded}: download the model again."


@pytest.mark.parametrize(
    ("weight_map", "shard", "tensor"),
    [
        ({"a": ONE, "b": TWO}, TWO, "c"),  # the file holds more than the index says
        ({"a": ONE, "b": TWO, "c": TWO, "d": ONE}, ONE, "d"),  # the index says more than the file holds
        ({"a": ONE, "b": TWO, "c": ONE}, ONE, "c"),  # another file holds it
        ({"a": TWO, "b": ONE, "c": ONE}, ONE, "a"),  # each has the other's
    ],
)
def test_index_and_files_agree(sharded, weight_map, shard, tensor):
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert refused(sharded) == f"{sharded / shard} and {INDEX} disagree on {tensor}: download the model again."


def test_a_tensor_in_two_shards_is_noticed(sharded):
    write_tensors(sharded / ONE, {"a": (0, 4), "b": (4, 10)}, 10)
    assert refused(sharded) == f"{sharded / ONE} and {INDEX} disagree on b: download the model again."


def test_weights_that_hide_the_shards_are_noticed(sharded):
    """transformers reads model.safetensors where there is one, whatever the index says."""
    write_tensors(sharded / "model.safetensors", {"a": (0, 4)}, 4)
    assert refused(sharded) == (
        f"{sharded / 'model.safetensors'} and {INDEX} disagree on a: download the model again."
    )


def test_an_index_may_name_one_file(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}))
    assert check_model_folder(folder) == folder


def test_an_index_of_nothing(sharded):
    (sharded / INDEX).write_text("{}")
    assert refused(sharded) == f"model.safetensors is missing in {sharded}: download the model again."


def test_weights_that_nothing_reads_are_not_judged(folder):
    (folder / "consolidated.safetensors").write_bytes(b"another format's")
    assert check_model_folder(folder) == folder


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{\n"a": }', "is not valid JSON (line 2: Expecting value): fix it."),
        (b'"\xff"', "is not text in UTF-8: download the model again."),
        (b"[" * 100_000, "is nested too deeply to be read: download the model again."),
        (b"[1]", "holds no JSON object: download the model again."),
    ],
)
def test_a_configuration_that_cannot_be_read(folder, content, sentence):
    (folder / "config.json").write_bytes(content)
    assert refused(folder) == f"{folder / 'config.json'} {sentence}"


def test_the_configuration_is_read_as_utf_8(folder):
    (folder / "config.json").write_bytes('{"name": "größer"}'.encode())
    assert read_config(folder) == {"name": "größer"}


@pytest.mark.parametrize(
    ("config", "count", "sentence"),
    [
        ({"num_attention_heads": 32, "num_key_value_heads": 32}, 4, None),
        ({"num_attention_heads": 32, "num_key_value_heads": 8}, 8, None),
        ({"num_attention_heads": 12}, 6, None),
        ({"n_head": 12, "n_head_kv": None}, 6, None),
        ({"hidden_size": 5}, 2, None),
        (
            {"num_attention_heads": 32, "num_key_value_heads": 32},
            3,
            "3 processes can't share 32 heads and 32 key-value heads, as each holds whole ones: "
            "take one of 1, 2, 4, 8, 16, 32.",
        ),
        (
            {"num_attention_heads": 32, "num_key_value_heads": 2},
            4,
            "4 processes can't share 32 heads and 2 key-value heads, as each holds whole ones: take one of 1, 2.",
        ),
        (
            {"n_head": 9, "n_head_kv": 6},
            2,
            "2 processes can't share 9 heads and 6 key-value heads, as each holds whole ones: take one of 1, 3.",
        ),
        (
            {"num_attention_heads": 7},
            2,
            "2 processes can't share 7 heads and 7 key-value heads, as each holds whole ones: take one of 1, 7.",
        ),
    ],
)
def test_processes_that_share_a_model_hold_whole_heads(config, count, sentence):
    if sentence is None:
        check_processes(config, count)
        return
    with pytest.raises(OpensciError) as refused:
        check_processes(config, count)
    assert refused.value.message == sentence


def test_code_files_are_those_of_auto_map_in_its_order_and_once():
    auto_map = {
        "AutoTokenizer": [None, "tokenization.Fast"],
        "AutoModelForCausalLM": "modeling.Model",
        "AutoConfig": "configuration.Config",
        "AutoModel": "modeling.Base",
        "AutoProcessor": "owner/name--processing.Processor",
    }
    found = code_files(Path("/m"), {"auto_map": auto_map})
    assert found == [Path("/m/tokenization.py"), Path("/m/modeling.py"), Path("/m/configuration.py")]
    assert code_files(Path("/m"), {}) == []


def test_every_code_file_must_be_there(folder):
    auto_map = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}
    for order in (auto_map, dict(reversed(auto_map.items()))):
        (folder / "config.json").write_text(json.dumps({"auto_map": order}))
        assert refused(folder).startswith(f"{folder} has no configuration.py, which its config.json or code names: ")


def test_what_belongs_to_a_copy(folder):
    for name in (
        ".hidden", "download.json", "pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "a.h5", "a.msgpack", "a.onnx",
        "a.gguf", "README.md", "chat_template.jinja",
    ):  # fmt: skip
        (folder / name).touch()
    (folder / "checkpoint").mkdir()
    assert [file.name for file in files(folder)] == [
        "README.md", "chat_template.jinja", "config.json", "model.safetensors", "modeling.py", "tokenizer.json",
    ]  # fmt: skip


@pytest.fixture
def no_clones(monkeypatch):
    """A file system without reflinks, wherever the tests run."""

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)


@pytest.fixture
def no_links(no_clones, monkeypatch):
    """Two file systems: neither clones nor hard links."""

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat(follow_symlinks=False).st_mode)


@pytest.fixture
def umask():
    """New files may be read and written by their owner, and read by the group."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_weights_become_one_read_only_file_with_their_other_bits(folder, no_clones):
    source, target = folder / "model.safetensors", folder / "there.safetensors"
    source.chmod(0o750)
    assert link(source, target) == "linked"
    assert target.stat().st_ino == source.stat().st_ino
    assert not target.is_symlink()
    assert mode(source) == 0o550


def test_every_right_to_write_is_taken_away(folder, no_clones):
    source = folder / "model.safetensors"
    for number, (before, after) in enumerate([(0o666, 0o444), (0o464, 0o444), (0o446, 0o444), (0o400, 0o400)]):
        source.chmod(before)
        link(source, folder / f"{number}.safetensors")
        assert mode(source) == after


def test_clones_are_files_of_their_own(folder, monkeypatch, umask):
    def clone(new, request, old):
        assert request == 0x40049409  # FICLONE
        new.write(os.pread(old, 1000, 0))

    monkeypatch.setattr(fcntl, "ioctl", clone)
    source, target = folder / "model.safetensors", folder / "there.safetensors"
    source.chmod(0o644)
    assert link(source, target) == "cloned"
    assert target.stat().st_ino != source.stat().st_ino
    assert target.read_bytes() == source.read_bytes()
    assert (mode(source), mode(target)) == (0o644, 0o640)


def test_only_linux_clones(folder, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "ioctl", lambda new, *_: new.write(b"another platform's request"))
    target = folder / "there.safetensors"
    assert link(folder / "model.safetensors", target) == "linked"
    assert target.samefile(folder / "model.safetensors")


def test_weights_are_copied_where_links_cannot_be(folder, no_links, umask):
    source, target = folder / "model.safetensors", folder / "there.safetensors"
    source.chmod(0o400)
    assert link(source, target) == "copied"
    assert target.stat().st_ino != source.stat().st_ino
    assert target.read_bytes() == source.read_bytes()
    assert (mode(source), mode(target)) == (0o400, 0o640)  # a copy may be edited


def test_the_rest_is_copied(folder, umask):
    source, target = folder / "modeling.py", folder / "there.py"
    source.chmod(0o444)
    assert link(source, target) == "copied"
    assert target.stat().st_ino != source.stat().st_ino
    assert target.read_text() == "class Model: ...\n"
    assert (mode(source), mode(target)) == (0o444, 0o640)


@pytest.mark.parametrize(("name", "how"), [("model.safetensors", "linked"), ("modeling.py", "copied")])
def test_links_of_a_cache_are_followed(folder, no_clones, tmp_path, name, how):
    """A snapshot in the Hub's cache is a folder of relative links to its blobs."""
    blob, snapshot, target = tmp_path / "blobs" / "1", tmp_path / "snapshots" / name, tmp_path / "there" / name
    for path in (blob, snapshot, target):
        path.parent.mkdir()
    content = (folder / name).read_bytes()
    (folder / name).rename(blob)
    snapshot.symlink_to("../blobs/1")
    assert link(snapshot, target) == how
    assert not target.is_symlink()
    assert target.samefile(blob) == (how == "linked")
    blob.unlink()
    snapshot.unlink()
    assert target.read_bytes() == content


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder and what it says, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def place(tmp_path):
    """Where a folder of two files stands, alone."""
    place = tmp_path / "place" / "model"
    place.mkdir(parents=True)
    (place / "old").write_text("1")
    (place / "both").write_text("old")
    return place


def test_a_folder_appears(tmp_path):
    folder = tmp_path / "new" / "model"
    with appearing(folder) as partial:
        assert partial.parent == folder.parent
        assert partial.name.startswith(".model.")
        (partial / "file").write_text("1")
        assert not folder.exists()
    assert contents(tmp_path) == {"new/model/file": "1"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert mode(folder) == 0o755


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o002, 0o664, 0o775), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_what_is_made_follows_the_umask(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        with appearing(tmp_path / "model") as partial:
            weights = partial / "model.safetensors"
            weights.touch(0o600)  # as safetensors 0.8 writes it
            follow_umask(weights)
            assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert mode(tmp_path / "model") == folder
    assert mode(tmp_path / "model" / "model.safetensors") == file


def test_what_stood_there_is_replaced(place):
    with appearing(place) as partial:
        (partial / "both").write_text("new")
        assert contents(place) == {"old": "1", "both": "old"}
    assert contents(place) == {"both": "new"}
    assert [path.name for path in place.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_changes_nothing(place, error):
    with pytest.raises(error), appearing(place) as partial:
        (partial / "both").write_text("new")
        raise error
    assert contents(place.parent) == {"model/old": "1", "model/both": "old"}
    assert [path.name for path in place.parent.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(place):
    with pytest.raises(FileNotFoundError), appearing(place) as partial:
        partial.rename(place.with_name("elsewhere"))
    assert contents(place) == {"old": "1", "both": "old"}
    assert {path.name for path in place.parent.iterdir()} == {"elsewhere", "model"}


def in_a_child(task) -> int:
    """Run `task` in a process of its own and return its exit status; 0 where it comes to its end."""
    if (child := os.fork()) == 0:
        try:
            task()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("renames", "standing"), [(0, "old"), (1, None), (2, "new")])
def test_a_crash_at_any_step_loses_neither_folder(place, renames, standing):
    """The process ends in the middle, as a power cut would have it: two whole folders, one of them perhaps hidden."""

    def crash():
        rename, done = os.rename, []

        def counted(*arguments):
            if len(done) == renames:
                os._exit(7)
            rename(*arguments)
            done.append(arguments)

        os.rename = os.replace = counted
        os.rmdir = os.unlink = lambda *_, **__: os._exit(7)
        with appearing(place) as partial:
            (partial / "both").write_text("new")

    assert in_a_child(crash) == 7
    found = {(path / "both").read_text(): path for path in place.parent.iterdir()}
    assert contents(found["old"]) == {"old": "1", "both": "old"}
    assert contents(found["new"]) == {"both": "new"}
    assert [word for word, path in found.items() if path == place] == ([standing] if standing else [])


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"é": [1, None], "b": 0.1})
    assert path.read_bytes() == '{\n  "é": [\n    1,\n    null\n  ],\n  "b": 0.1\n}\n'.encode()
    write_json(path, {})
    assert path.read_bytes() == b"{}\n"
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_cannot_be_written_leaves_the_old(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_json(path, {"a": 1, "b": object()})
    assert contents(tmp_path) == {"a.json": "old"}


def test_a_full_disk_leaves_the_old_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            write_json(path, {"a": "b" * 1000})
        except OSError as error:
            os._exit(error.errno)

    assert in_a_child(write) == errno.EFBIG
    assert contents(tmp_path) == {"a.json": "old"}


def test_json_that_a_crash_cut_off_is_no_json(tmp_path):
    """Another name until it is whole, so that a reader never sees half of it."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        os.rename = os.replace = lambda *_: os._exit(7)
        write_json(path, {"a": 1})

    assert in_a_child(write) == 7
    assert path.read_text() == "old"
    assert contents(tmp_path) == {"a.json": "old", "a.json.partial": '{\n  "a": 1\n}\n'}


# Embeddings that are tied, and stored twice


def stored(folder, head, **config):
    words = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensors = {"model.embed_tokens.weight": words} | ({} if head is None else {"lm_head.weight": words + head})
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return tied_twice(folder)


def test_a_second_head_is_told(folder):
    assert stored(folder, head=None) is None
    assert stored(folder, head=0.5, tie_word_embeddings=False) is None
    assert "They are equal" in stored(folder, head=0)
    different = stored(folder, head=np.float32([[0, 0], [0, 0], [0, 1]]), tie_word_embeddings=True)
    assert different.startswith(
        f"{folder} stores another lm_head.weight than model.embed_tokens.weight, to which config"
    )
    assert "Set tie_word_embeddings to false for the head" in different


def test_code_about_to_run_is_announced(tmp_path):
    folder = make_folder(tmp_path / "tiny")
    (folder / "modeling_tiny.py").write_text("from .rotary import Rotary\n")
    (folder / "rotary.py").write_text("from .rotary import again\n")
    said = announce(folder, "transformers 5.0.0")
    assert said == f"Running configuration_tiny.py, modeling_tiny.py, rotary.py of {folder} in transformers 5.0.0."
    (folder / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "some/where--modeling.Model"}}')
    assert announce(folder, "X") == f"Running some/where--modeling.Model of {folder} in X."
    (folder / "config.json").write_text("{}")
    assert announce(folder, "X") == f"{folder} has no code of its own."
