"""Model folders of strangers: what is read of them, what is refused and in which words, and that nothing is run."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from opensci_lib.cli import main
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.limits import within_limits
from opensci_lib.model_folder import check_model_folder, files
from tests.hotfix.folder import CONFIG, MODELING, make_folder

WEIGHTS = "model.safetensors"
SECRET = "the key of the house"


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file outside any model folder."""
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "place" / "tiny")


def call(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(source: Path, *words: str) -> None:
    """Check that a folder is refused in a sentence, on every way in, and that nothing is written."""
    place = source.parent
    for command in (["hotfix", "--src_dir", source], ["hotfix", "--src_dir", source, "--diff"]):
        result = call(*command)
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.output.startswith("Error: ")
        assert result.output.count("\n") == 1, result.output
        assert all(word in result.output for word in words), result.output
        assert {path.name for path in place.iterdir()} <= {"tiny", ".tiny_fixed.lock"}


def with_auto_map(source: Path, value) -> None:
    (source / "config.json").write_text(json.dumps({**CONFIG, "auto_map": value}))


def replaced(path: Path, by) -> None:
    path.unlink(missing_ok=True)
    by(path)


def by_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have 100 characters
        server.bind(path.name)
        os.chdir(here)


ANYTHING = [
    os.mkfifo,
    os.mkdir,
    by_socket,
    lambda path: path.symlink_to(path.parents[2] / "secret.txt"),
    lambda path: path.symlink_to("../../secret.txt"),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("nowhere"),
]
NAMES = ["fifo", "folder", "socket", "absolute", "relative", "device", "circle", "nowhere"]


@pytest.mark.parametrize("by", ANYTHING, ids=NAMES)
@pytest.mark.parametrize(
    "name", ["config.json", "modeling_tiny.py", "configuration_tiny.py", WEIGHTS, "tokenizer.json"]
)
def test_what_is_no_file_of_the_folder_is_refused_unread(source, secret, name, by):
    replaced(source / name, by)
    refused(source, f"{source / name} is no regular file that lies in the folder")


@pytest.mark.parametrize("by", ANYTHING, ids=NAMES)
def test_what_is_not_needed_is_left_out_and_said(source, secret, tmp_path, by):
    by(source / "notes.txt")
    result = call("hotfix", "--src_dir", source)
    assert result.exit_code == 0, result.output
    assert "Left out, no regular files of the folder or not safe to open: notes.txt\n" in result.output
    fixed = source.with_name("tiny_fixed")
    assert not os.path.lexists(fixed / "notes.txt")
    placed = call("download", source, "--local_dir", tmp_path / "placed")
    assert placed.exit_code == 0, placed.output
    assert not os.path.lexists(tmp_path / "placed" / "notes.txt")
    assert "Left out" in placed.output
    assert "notes.txt" in placed.output
    assert SECRET.encode() not in b"".join(
        path.read_bytes() for path in [*fixed.iterdir(), *files(tmp_path / "placed")]
    )


def test_links_within_the_folder_are_followed(source):
    (source / "tokenizer.json").rename(source / "words.json")
    (source / "tokenizer.json").symlink_to("words.json")
    fixed = Path(hotfix(source).dst_dir)
    assert (fixed / "tokenizer.json").read_text() == "{}"
    assert not (fixed / "tokenizer.json").is_symlink()


def test_a_folder_may_itself_be_reached_by_a_link(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    assert check_model_folder(tmp_path / "link") == tmp_path / "link"


@pytest.fixture
def cache(source, tmp_path) -> Path:
    """A snapshot in a Hub's cache, all of it links to blobs."""
    repository = tmp_path / "place" / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(source.iterdir()):
        file.rename(repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_links_of_a_cache_lead_to_its_blobs_and_nowhere_else(cache, secret, tmp_path):
    assert check_model_folder(cache) == cache
    for leads in ("../../../../../secret.txt", str(secret), "../../refs/main", "../../../models--org--other/blobs/1"):
        (cache / "notes.txt").symlink_to(leads)
        target = (cache / leads).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        assert "notes.txt" not in [file.name for file in files(cache)]
        (cache / "notes.txt").unlink()


def test_blobs_that_are_a_link_to_elsewhere_are_no_blobs(cache, tmp_path):
    blobs = cache.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OpensciError, match="is no regular file that lies in the folder"):
        check_model_folder(cache)


@pytest.mark.parametrize(
    "reference",
    [
        "../../evil.TinyForCausalLM",
        "/etc/evil.TinyForCausalLM",
        "sub/evil.TinyForCausalLM",
        "..evil.TinyForCausalLM",
        ".evil.TinyForCausalLM",
        "a.b.TinyForCausalLM",
        "TinyForCausalLM",
        "modeling_tiny.",
        "modeling tiny.TinyForCausalLM",
        "modeling_tiny\0.TinyForCausalLM",
        "modeling_tiny\n.TinyForCausalLM",
        "",
        1,
        True,
        {},
    ],
)
def test_code_names_stay_in_the_folder(source, reference):
    (source.parent.parent / "evil.py").write_text(MODELING)
    with_auto_map(source, {**CONFIG["auto_map"], "AutoModelForCausalLM": reference})
    refused(source, "auto_map.AutoModelForCausalLM names", "which is no class in a file of the folder")


@pytest.mark.parametrize(
    "value", [None, [], ["modeling_tiny.TinyForCausalLM"], 1, "modeling_tiny.TinyForCausalLM", True]
)
def test_an_auto_map_that_is_none(source, value):
    with_auto_map(source, value)
    refused(source, "config.json: auto_map is no JSON object: download it again.")


@pytest.mark.parametrize(
    "weight_map",
    [
        [], None, 1, "a", {"a": 1}, {"a": None}, {"a": [WEIGHTS]}, {"a": "../x.safetensors"}, {"a": ""},
        {"a": "/etc/x.safetensors"}, {"a": "sub/x.safetensors"}, {"a": "passwd"}, {"a": ".x.safetensors"},
        {"a": "x\0.safetensors"},
    ],
)  # fmt: skip
def test_an_index_names_files_of_the_folder(source, weight_map):
    (source / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(source, "weight_map does not name files of the folder")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{"a": NaN}', "holds a number that can't be read"),
        ("config.json", '{"a": [-Infinity]}', "holds a number that can't be read"),
        ("config.json", '{"a": %s}' % ("1" * 5000), "holds a number that can't be read"),
        ("config.json", " " * (2**23 + 1), "is longer than 8 MiB"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("tokenizer_config.json", '{"a": NaN}', "holds a number that can't be read"),
        ("tokenizer_config.json", "[" * 100_000, "is nested too deeply"),
        (f"{WEIGHTS}.index.json", "[]", "holds no JSON object"),
        ("modeling_tiny.py", "#" * (2**20 + 1), "is longer than 1 MiB"),
        ("modeling_tiny.py", "", "has no class TinyPreTrainedModel, which config.json names"),
        (
            "modeling_tiny.py",
            "class TinyPreTrainedModel: ...",
            "has no class TinyForCausalLM, which config.json names",
        ),
        ("configuration_tiny.py", "", "has no class TinyConfig, which config.json names"),
    ],
)
def test_files_that_say_nothing_sensible(source, name, content, words):
    (source / name).write_text(content)
    refused(source, name, words)


def test_a_file_that_is_longer_than_memory_is_not_read(source):
    with (source / "modeling_tiny.py").open("wb") as file:
        file.truncate(2**40)
    refused(source, "modeling_tiny.py is longer than 1 MiB")


def test_names_that_a_terminal_would_obey_are_written_out(source):
    (source / "a\x1b[2J\nb.txt").write_text("")
    hotfix(source)
    assert call("hotfix", "--src_dir", source, "--dst_dir", source.with_name("new\n\x1b")).exit_code == 0
    with pytest.raises(OpensciError) as caught:
        check_model_folder(source / "\x1b[2J\n")
    assert "\\x1b[2J\\n is not a folder" in caught.value.message


LEAVES_A_MARK = "import pathlib\npathlib.Path(%r).touch()\n"


def test_nothing_that_a_folder_holds_is_run(source, tmp_path, monkeypatch):
    """Not from where it lies, not as the current folder, and not what Python runs by itself where it finds it."""
    mark = tmp_path / "mark"
    code = LEAVES_A_MARK % str(mark)
    for name in ("modeling_tiny.py", "configuration_tiny.py"):
        (source / name).write_text(code + (source / name).read_text().replace("# A licence.\n", ""))
    for name in ("__init__", "conftest", "setup", "sitecustomize", "usercustomize", "json", "torch", "tiny"):
        (source / f"{name}.py").write_text(code)
    (source / "tiny.pth").write_text(code.replace("\n", ";"))
    (source / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % str(mark).encode())
    monkeypatch.chdir(source)
    for command in (
        ["download", source, "--local_dir", tmp_path / "placed"],
        ["hotfix", "--src_dir", source],
        ["hotfix", "--src_dir", ".", "--check", "--dst_dir", tmp_path / "other"],
        ["hotfix", "--src_dir", source.with_name("tiny_fixed"), "--diff"],
    ):
        assert isinstance(call(*command).exception, SystemExit | None)
        assert not mark.exists(), command
    exec(code)
    assert mark.exists()


# Limits


def test_work_within_the_limits_gives_its_value():
    assert within_limits(lambda: {"é": [1, None, "\ud800"]}, "It") == {"é": [1, None, "\ud800"]}


def test_an_error_within_the_limits_is_the_error():
    def work():
        raise OpensciError("Take another.")

    with pytest.raises(OpensciError, match=r"^Take another\.$"):
        within_limits(work, "It")


def test_a_fault_of_our_own_is_not_hidden():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        within_limits(lambda: 1 // 0, "It")


TOO_MUCH = "It can't be read within 64 MiB of memory, or is too deeply nested: download the model again."


def stack_overflow():
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda: time.sleep(60), "It takes more than 1 seconds to read: download the model again."),
        (
            lambda: [0] * 2**28,
            "It can't be read within 64 MiB of memory, or is too deeply nested: download the model again.",
        ),
        (
            stack_overflow,
            "It can't be read within 64 MiB of memory, or is too deeply nested: download the model again.",
        ),
    ],
    ids=["time", "memory", "crash"],
)
def test_a_limit_reached_is_one_sentence(work, sentence):
    with pytest.raises(OpensciError) as caught:
        within_limits(work, "It", seconds=1, memory=2**26)
    assert caught.value.message == sentence


def test_the_work_writes_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="File too large"):
        within_limits(lambda: (tmp_path / "a").write_text("a"), "It")


def test_nothing_goes_on_after_an_interrupt(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            within_limits(lambda: time.sleep(60), "It")
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
