"""A model folder on disk: whether it is whole, and how to put its files elsewhere without copying weights.

A folder may come from anyone. Nothing here imports or runs what it holds, and only regular files are read that lie in
it, or that the links of a Hub cache lead to within that cache.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from opensci_lib.errors import OpensciError

#: What `opensci download` writes into a folder about where it came from.
DOWNLOAD_RECORD = "download.json"

#: Weights in formats that run code when they are opened, or that transformers would not read.
_LEFT_OUT = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
#: What ends the name of the sibling that holds what stood at a place before.
_OLD = ".old"
_FICLONE = 0x40049409  # of linux/fs.h
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)
#: What `hotfix` writes above code that it changed, with the version of this package, and the source's hash.
_NOTICE = re.compile(rb"(?:#\r?\n)?# Changed by opensci hotfix [^\n]*\n")
_WEIGHTS = "model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
#: The most bytes of a text that are read; transformers' own longest modelling file has a third of a million.
_LONGEST = {".py": 2**20, ".json": 2**23}
#: What transformers reads in `auto_map`: "modeling_opensci.OpensciModel", a file that lies in the folder itself.
_REFERENCE = re.compile(r"(\w[\w-]*)\.(\w+)")
_ROWS = 4096  # of a matrix that are compared at once
_SHARD = re.compile(r"[^./\0][^/\0]*\.safetensors")
#: What configurations call the number of heads of queries, and that of keys and values.
HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
KEY_HEAD_COUNTS = ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num")


def check_model_folder(path: Path | str, tokenizer: bool = True) -> Path:
    """Return `path`, absolute, if it holds a whole model: configuration, code, weights and, if asked for, tokenizer.

    Weights are judged by their safetensors headers, so the check takes no longer for larger models.

    Raises:
        OpensciError: naming the first thing that is missing or broken.

    """
    folder = Path(path).absolute()
    config = read_config(folder)
    for file in code_files(folder, config):
        if not _is_there(file):
            raise OpensciError(
                f"{folder} has no {file.name}, which its config.json or code names: download it, or give a folder or "
                "Hub id that has it to `opensci hotfix --code_from`."
            )
    _check_weights(folder)
    if tokenizer and not any(_is_there(folder / name) for name in _TOKENIZERS):
        raise OpensciError(f"{folder} has no tokenizer ({' or '.join(_TOKENIZERS)}): download the model again.")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's config.json, or raise the OpensciError that says why it can't be read."""
    if not folder.is_dir():
        raise OpensciError(f"{folder} is not a folder: give the folder of a model.")
    if not _is_there(folder / "config.json"):
        raise OpensciError(f"{folder} is no model folder: it has no config.json.")
    return read_settings(folder / "config.json")


def check_processes(config: dict[str, Any], count: int) -> None:
    """Make sure that processes can share a model: each holds whole heads, of queries and of keys and values.

    Raises:
        OpensciError: when their number does not divide both; where config.json names neither, there is no telling.

    """
    heads, key_heads = (
        next((config[name] for name in names if isinstance(config.get(name), int)), 0)
        for names in (HEAD_COUNTS, KEY_HEAD_COUNTS)
    )
    key_heads = key_heads or heads
    common = math.gcd(heads, key_heads)
    if common % count:
        fitting = ", ".join(str(number) for number in range(1, common + 1) if common % number == 0)
        raise OpensciError(
            f"{count} processes can't share {heads} heads and {key_heads} key-value heads, as each holds whole ones: "
            f"take one of {fitting}."
        )


def announce(path: Path | str, where: str) -> str:
    """Say in a line which of a folder's Python files are about to be run, and where."""
    folder = Path(path)
    config = read_config(folder)
    names = [file.name for file in code_files(folder, config)]
    # "owner/name--module.Class" is code of another repository on the Hub
    references = [value for entry in config.get("auto_map", {}).values() for value in _listed(entry)]
    names += sorted({value for value in references if "--" in value})
    return f"Running {', '.join(names)} of {folder} in {where}." if names else f"{folder} has no code of its own."


def code_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Return the folder's Python files that `auto_map` in its config.json reaches: those named, in its order, first.

    The others are reached through relative imports, found as transformers finds them: by lines, without parsing.
    """
    names = dict.fromkeys(file.name for file in classes(folder, config))
    waiting = list(names)
    while waiting:
        file = folder / waiting.pop(0)
        text = read_text(file) if _is_there(file) else ""
        found = [f"{module}.py" for module in _RELATIVE_IMPORT.findall(text)]
        waiting += [name for name in dict.fromkeys(found) if name not in names]
        names |= dict.fromkeys(found)
    return [folder / name for name in names]


def _listed(entry: Any) -> list[str]:
    """Return the references in an entry of `auto_map`: one, or several of which some may be missing."""
    return [value for value in (entry if isinstance(entry, list) else [entry]) if value]


def code_digest(folder: Path) -> str:
    """Return a SHA-256 of a folder's own code: names and texts, without the notice that a hotfix leaves in them."""
    digest = hashlib.sha256()
    for file in sorted(code_files(folder, read_config(folder))):
        text = _NOTICE.sub(b"", file.read_bytes())
        digest.update(f"{file.name} {hashlib.sha256(text).hexdigest()}\n".encode())
    return digest.hexdigest()


def classes(folder: Path, config: dict[str, Any]) -> dict[Path, list[str]]:
    """Return the classes that `auto_map` in the folder's config.json names, by the Python file that holds them.

    Raises:
        OpensciError: when it does not have the form that transformers reads, or names what is not in the folder.

    """
    auto_map = config.get("auto_map", {})
    if not isinstance(auto_map, dict):
        raise OpensciError(f"{folder}/config.json: auto_map is no JSON object: download it again.")
    found: dict[Path, list[str]] = {}
    for key, value in auto_map.items():
        for reference in value if isinstance(value, list) else [value]:
            if reference is None:  # a tokenizer that there is not
                continue
            # "owner/name--module.Class" stands for another repository's code, unless it lies here too
            _, mark, local = reference.rpartition("--") if isinstance(reference, str) else ("", "", "")
            named = _REFERENCE.fullmatch(local)
            if mark and not (named and os.path.lexists(folder / f"{named[1]}.py")):
                continue
            if named is None:
                raise OpensciError(
                    f"{folder}/config.json: auto_map.{key} names {json.dumps(reference)[:100]}, which is no class in "
                    'a file of the folder, such as "modeling_opensci.OpensciModel": download it again.'
                )
            found.setdefault(folder / f"{named[1]}.py", []).append(named[2])
    return found


def foreign_code(folder: Path, config: dict[str, Any]) -> dict[str, list[str]]:
    """Return the files of code that `auto_map` takes from other repositories and that are not here, by repository."""
    found: dict[str, list[str]] = {}
    for value in config.get("auto_map", {}).values():
        for reference in value if isinstance(value, list) else [value]:
            repository, mark, local = (reference or "").rpartition("--")
            file = f"{local.partition('.')[0]}.py"
            if mark and not (folder / file).exists() and file not in found.setdefault(repository, []):
                found[repository].append(file)
    return {repository: names for repository, names in found.items() if names}


def add_code(source: Path, folder: Path) -> None:
    """Copy the Python files of one folder to another that lacks them."""
    for file in sorted(source.glob("*.py")):
        if belongs(file) and not os.path.lexists(folder / file.name):
            shutil.copyfile(file, folder / file.name)


def tied_twice(folder: Path) -> str | None:
    """Say in a sentence what is ambiguous where tied embeddings are stored twice; None where they are not.

    The two are compared some rows at a time. Releases up to 4.57 tie them whatever the checkpoint holds; later ones
    take a head that is stored, and 5.0 to 5.2 leave an equal one untied.
    """
    if not read_config(folder).get("tie_word_embeddings", True):
        return None
    places: dict[str, tuple[Path, str]] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  a safetensors file is no dictionary
                places[name.removesuffix(".weight").rpartition(".")[2]] = shard, name
    if not {"lm_head", "embed_tokens"} <= places.keys():
        return None
    (first, head), (second, words) = places["lm_head"], places["embed_tokens"]
    with safe_open(first, framework="np") as one, safe_open(second, framework="np") as other:
        ours, theirs = one.get_slice(head), other.get_slice(words)
        count = ours.get_shape()[0]
        pieces = [(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]
        equal = ours.get_shape() == theirs.get_shape() and all(
            ours[start:stop].tobytes() == theirs[start:stop].tobytes() for start, stop in pieces
        )
    if equal:
        return (
            f"{folder} stores {head} beside {words}, to which config.json ties it. They are equal, and 5.0 to 5.2 "
            "leave them untied: remove it from the checkpoint, or set tie_word_embeddings to false if that is meant."
        )
    return (
        f"{folder} stores another {head} than {words}, to which config.json ties it: 4.x takes the embeddings, "
        "5.x with the head. Set tie_word_embeddings to false for the head, or remove it for the embeddings."
    )


def belongs(file: Path) -> bool:
    """Say whether a file is a regular one that lies in its folder, or where a Hub cache's link leads in that cache.

    The cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache#how-does-caching-work
    """
    try:
        folder, target = file.parent.resolve(strict=True), file.resolve(strict=True)
        is_regular = stat.S_ISREG(target.stat().st_mode)
    except (OSError, RuntimeError, ValueError):  # there is none, a link in a circle, a name that none can have
        return False
    places = [folder, folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [folder]
    return is_regular and target.parent in places


def _is_there(file: Path) -> bool:
    """Say whether there is a file, or raise the OpensciError that says why what is there is not read."""
    if not os.path.lexists(file):
        return False
    if not belongs(file):
        raise OpensciError(
            f"{file} is no regular file that lies in the folder: put a copy in its place, or download it again."
        )
    return True


def read_text(file: Path) -> str:
    """Return the text of a Python or JSON file of a model folder, with its own line ends.

    Raises:
        OpensciError: when it is not there, does not belong to the folder, is too long, or is no UTF-8.

    """
    if not _is_there(file):
        raise OpensciError(f"{file.parent} has no {file.name}: download the model again.")
    longest = _LONGEST[file.suffix]
    with file.open("rb") as content:
        data = content.read(longest + 1)
    if len(data) > longest:
        raise OpensciError(f"{file} is longer than {longest >> 20} MiB, which no model needs: download it again.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OpensciError(f"{file} is not text in UTF-8: download the model again.") from error


def read_settings(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder, or raise the OpensciError that says where it is broken."""
    return _object(file, read_text(file), _no_number)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or raise the OpensciError that says where it is broken."""
    try:
        return _object(path, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise OpensciError(f"{path} is not text in UTF-8: download the model again.") from error


def _object(path: Path, text: str, constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise OpensciError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}): fix it.") from error
    except RecursionError as error:
        raise OpensciError(f"{path} is nested too deeply to be read: download the model again.") from error
    except ValueError as error:
        raise OpensciError(f"{path} holds a number that can't be read: download the model again.") from error
    if not isinstance(value, dict):
        raise OpensciError(f"{path} holds no JSON object: download the model again.")
    return value


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_weights(folder: Path) -> None:
    """Check the files that transformers reads the weights from: model.safetensors, or else what the index names."""
    index = folder / f"{_WEIGHTS}.index.json"
    named: dict[str, set[str]] = {}
    has_index = _is_there(index)
    for tensor, shard in _weight_map(index).items() if has_index else ():
        named.setdefault(shard, set()).add(tensor)
    if not named or os.path.lexists(folder / _WEIGHTS):
        named.setdefault(_WEIGHTS, set())
    for shard, tensors in sorted(named.items()):
        held = _tensors(folder / shard)
        if has_index and held != tensors:
            raise OpensciError(
                f"{folder / shard} and {index.name} disagree on {min(held ^ tensors)}: download the model again."
            )


def _weight_map(index: Path) -> dict[str, str]:
    """Return which file holds a tensor."""
    weight_map = read_settings(index).get("weight_map", {})
    shards = weight_map.values() if isinstance(weight_map, dict) else [None]
    if not all(isinstance(shard, str) and _SHARD.fullmatch(shard) for shard in shards):
        raise OpensciError(f"{index}: weight_map does not name files of the folder: download the model again.")
    return weight_map


def _tensors(path: Path) -> set[str]:
    """Return the names of a safetensors file's tensors, whose header must promise just the bytes that follow."""
    if not _is_there(path):
        raise OpensciError(f"{path.name} is missing in {path.parent}: download the model again.")
    try:
        with safe_open(path, framework="np") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise OpensciError(f"{path} is cut off or no safetensors file: download it again.") from error


def files(folder: Path) -> list[Path]:
    """Return the files of a model folder that belong to a copy of it."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.isprintable()
        and not file.name.startswith(".")
        and file.suffix not in _LEFT_OUT
        and file.name != DOWNLOAD_RECORD
        and belongs(file)
    )


def left_out(folder: Path) -> str:
    """Say what is in a model folder and not in a copy of it, hidden files and our own apart, or return "".

    That is links out of the folder, what is no regular file, and weights that run code.
    """
    copied = {DOWNLOAD_RECORD, *(file.name for file in files(folder))}
    names = sorted(path.name for path in folder.iterdir() if path.name not in copied and path.name[0] != ".")
    return f"Left out, no regular files of the folder or not safe to open: {', '.join(names)}" if names else ""


def states(files: list[Path]) -> list[list[Any]]:
    """Return what tells that a file was changed: name, size in bytes, time of the last change in nanoseconds."""
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def link(source: Path, target: Path) -> str:
    """Put a file at `target` too, weights without a second copy where the file system can.

    Weights are cloned, so that the two share room until one is written. Where that can't be they are hard links, made
    read-only, because a program that writes into one would change the other: safetensors before 0.8 does, and with it
    save_pretrained. The rest is copied, and weights too from one file system to another. Links in a Hub cache are
    followed, so that `target` outlives the cache. Returns "cloned", "linked" or "copied".
    """
    ways = {"cloned": _clone, "linked": _hard_link} if source.suffix == ".safetensors" else {}
    for name, put in ways.items():
        try:
            put(source.resolve(), target)
            return name
        except OSError:  # this file system does not do that
            target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    return "copied"


def _clone(source: Path, target: Path) -> None:
    """Make a reflink (https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html), or raise OSError."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "only Linux has FICLONE")
    import fcntl

    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new, _FICLONE, old.fileno())


def _hard_link(source: Path, target: Path) -> None:
    os.link(source, target)
    mode = target.stat().st_mode
    if mode & 0o222:
        target.chmod(mode & ~0o222)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Let no other process write `folder` while the block runs, and remove what dead ones had begun of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        for left in folder.parent.glob(f"{glob.escape(_beside(folder))}*"):
            if left.suffix == _OLD and not folder.exists():
                left.rename(folder)  # what stood here when the process died that was about to replace it
            else:
                shutil.rmtree(left)
        yield


@contextmanager
def appearing(folder: Path) -> Generator[Path]:
    """Yield a temporary sibling that becomes `folder` when the block ends well and vanishes when it does not.

    What stood at `folder` is replaced only then: it moves aside, and goes when the new one stands. A crash between
    the two leaves both beside the place, whole and hidden; the next `alone` puts the old one back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(_beside(folder) + secrets.token_hex(4))
    partial.mkdir()
    old = partial.with_name(partial.name + _OLD)
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        shutil.rmtree(partial)
        raise
    if old.exists():
        shutil.rmtree(old)


def follow_umask(path: Path) -> None:
    """Give a file the mode that this process's umask says: safetensors 0.8 and later keep theirs to the owner."""
    mask = os.umask(0o077)  # there is no way to ask without setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _beside(folder: Path) -> str:
    """Return how the names of a folder's temporary siblings begin."""
    return f".{folder.name}.partial-"


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
