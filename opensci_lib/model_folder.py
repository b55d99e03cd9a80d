"""A model folder on disk: whether it is whole, and how to put its files elsewhere without copying weights.

Nothing here imports or runs what a folder holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from opensci_lib.errors import OpensciError

#: What `opensci download` writes into a folder about where it came from.
DOWNLOAD_RECORD = "download.json"

#: Weights in formats that run code when they are opened, or that transformers would not read.
_LEFT_OUT = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
_FICLONE = 0x40049409  # of linux/fs.h
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)
#: What `hotfix` writes above code that it changed, with the version of this package, and the source's hash.
_NOTICE = re.compile(
    rb"(?:#\r?\n)?# Changed by opensci hotfix [^\n]*\n(?:#   [^\n]*\n)*# The source's sha256 [^\n]*\n"
)
_WEIGHTS = "model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check_model_folder(path: Path | str, tokenizer: bool = True) -> Path:
    """Return `path`, absolute, if it holds a whole model: configuration, code, weights and, if asked for, tokenizer.

    Weights are judged by their safetensors headers, so the check takes no longer for larger models.

    Raises:
        OpensciError: naming the first thing that is missing or broken.

    """
    folder = Path(path).absolute()
    config = read_config(folder)
    for file in code_files(folder, config):
        if not file.is_file():
            raise OpensciError(f"{folder} has no {file.name}, which its config.json or code names: download it.")
    _check_weights(folder)
    if tokenizer and not any((folder / name).exists() for name in _TOKENIZERS):
        raise OpensciError(f"{folder} has no tokenizer ({' or '.join(_TOKENIZERS)}): download the model again.")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's config.json, or raise the OpensciError that says why it can't be read."""
    if not folder.is_dir():
        raise OpensciError(f"{folder} is not a folder: give the folder of a model.")
    if not (folder / "config.json").exists():
        raise OpensciError(f"{folder} is no model folder: it has no config.json.")
    return read_json(folder / "config.json")


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
    names: dict[str, None] = {}
    for value in config.get("auto_map", {}).values():
        for reference in _listed(value):
            # "owner/name--module.Class" points to another repository's code
            if "--" not in reference:
                names[reference.rpartition(".")[0] + ".py"] = None
    waiting = list(names)
    while waiting:
        file = folder / waiting.pop(0)
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or raise the OpensciError that says where it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise OpensciError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}): fix it.") from error
    except RecursionError as error:
        raise OpensciError(f"{path} is nested too deeply to be read: download the model again.") from error
    except UnicodeDecodeError as error:
        raise OpensciError(f"{path} is not text in UTF-8: download the model again.") from error
    if not isinstance(value, dict):
        raise OpensciError(f"{path} holds no JSON object: download the model again.")
    return value


def _check_weights(folder: Path) -> None:
    """Check the files that transformers reads the weights from: model.safetensors, or else what the index names."""
    index = folder / f"{_WEIGHTS}.index.json"
    named: dict[str, set[str]] = {}
    for tensor, shard in (read_json(index).get("weight_map", {}) if index.exists() else {}).items():
        named.setdefault(shard, set()).add(tensor)
    if not named or (folder / _WEIGHTS).exists():
        named.setdefault(_WEIGHTS, set())
    for shard, tensors in sorted(named.items()):
        held = _tensors(folder / shard)
        if index.exists() and held != tensors:
            raise OpensciError(
                f"{folder / shard} and {index.name} disagree on {min(held ^ tensors)}: download the model again."
            )


def _tensors(path: Path) -> set[str]:
    """Return the names of a safetensors file's tensors, whose header must promise just the bytes that follow."""
    if not path.exists():
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
        if file.is_file()
        and not file.name.startswith(".")
        and file.suffix not in _LEFT_OUT
        and file.name != DOWNLOAD_RECORD
    )


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
def appearing(folder: Path) -> Generator[Path]:
    """Yield a temporary sibling that becomes `folder` when the block ends well and vanishes when it does not.

    What stood at `folder` is replaced only then: it moves aside, and goes when the new one stands. A crash between
    the two leaves both beside the place, whole and hidden.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    partial.chmod(0o755)
    old = partial.with_name(f"{partial.name}.old")
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


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
