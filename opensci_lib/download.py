"""Find a model: on the Hugging Face Hub, in a local folder, or the built-in `miniature`."""

from __future__ import annotations

import filecmp
import hashlib
import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from opensci_lib.errors import OpensciError
from opensci_lib.miniature import MODEL
from opensci_lib.model_folder import (
    DOWNLOAD_RECORD,
    add_code,
    alone,
    appearing,
    check_model_folder,
    files,
    foreign_code,
    left_out,
    link,
    read_config,
    tied_twice,
    write_json,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

MINIATURE = "miniature"
# Weights as safetensors only: a pickle runs code when it is opened.
_FIRST = ["config.json"]
_CODE = ["*.json", "*.py", "*.txt", "*.model", "*.jinja"]
_PATTERNS = ["*.safetensors", *_CODE]


@dataclass(frozen=True)
class Download:
    """Where a model lies, and how large its weights are.

    `commit` is the Hub commit, or None for what is not from the Hub. `code` are the repositories that its code came
    from where its configuration names others, with their commits.
    """

    model: str
    revision: str | None
    commit: str | None
    path: str
    weights_bytes: int
    code: dict[str, str | None] = field(default_factory=dict)


def download(model: str, revision: str | None = None, local_dir: Path | str | None = None) -> Download:
    """Bring a model's weights, code, configuration and tokenizer to this machine, and check that it is whole.

    Args:
        model: a Hub id such as "open-sci/open-sci-ref-v0.01-1.7b-nemotron-hq-1T-16384", a local
            folder, or "miniature", which is part of this package.
        revision: a branch, tag or commit on the Hub.
        local_dir: where to put it; by default the Hub's cache, or where the folder already lies.
            The outcome is recorded there as `download.json`, and what is complete is not asked for again.

    The Hub's own variables hold: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN. A transfer that is cut off goes on
    where it stopped, files that are complete are kept, and all are compared with the hashes that the Hub lists.

    Raises:
        OpensciError: when the model is unavailable, is incomplete, or is not what the Hub lists.

    """
    if revision and (model == MINIATURE or Path(model).exists()):
        raise OpensciError(f"{model} is not from the Hub and has no revision {revision!r}: leave it out.")
    place = Path(local_dir).absolute() if local_dir else None
    if place:
        if (found := _recorded(place)) and (found.model, found.revision) == (model, revision):
            return found
        # From here on what lies there may be of another model, in part.
        (place / DOWNLOAD_RECORD).unlink(missing_ok=True)
    commit = None
    if model == MINIATURE:
        # Copied: what is done to the copy does not reach the package.
        path = _placed(MODEL, place, shutil.copyfile) if place else MODEL
    elif Path(model).exists():
        path = _placed(Path(model), place, link) if place else Path(model)
    else:
        path, commit = _from_hub(model, revision, place, _PATTERNS)
    commits = _bring_code(place) if place else {}
    folder = check_model_folder(path)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    found = Download(model, revision, commit, str(folder), size, commits)
    if place:
        write_json(place / DOWNLOAD_RECORD, asdict(found))
    if ambiguous := tied_twice(folder):
        click.echo(ambiguous, err=True)
    return found


def code(model: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Return (folder, commit) of a model's code, configuration and tokenizer; from the Hub without its weights.

    Raises:
        OpensciError: when the model is unavailable.

    """
    if model == MINIATURE and not Path(model).exists():
        return MODEL, None
    return (Path(model), None) if Path(model).exists() else _from_hub(model, revision, None, _CODE)


def _bring_code(place: Path) -> dict[str, str | None]:
    """Put the code that config.json takes from other repositories into a folder, and return their commits."""
    commits = {}
    for repository, names in foreign_code(place, read_config(place)).items():
        try:
            folder, commits[repository] = code(repository)
        except OpensciError as error:
            raise OpensciError(
                f"{place} takes its code from {repository}, which is unavailable here: put {' and '.join(names)} of "
                "that repository into the folder."
            ) from error
        add_code(folder, place)
    return commits


def _recorded(place: Path) -> Download | None:
    """Return what an earlier download to this folder wrote down when it was complete."""
    record = place / DOWNLOAD_RECORD
    found = json.loads(record.read_text()) if record.exists() else {}
    # A record of an older version of this package may hold less; `code` it could not have brought.
    if {field.name for field in fields(Download)} != set(found) | {"code"}:
        return None
    names = [file.name for file in files(MODEL)]
    if found["model"] == MINIATURE and filecmp.cmpfiles(MODEL, place, names, shallow=False)[0] != names:
        return None  # the miniature of another version of this package
    return replace(Download(**found), path=str(place))  # the folder may have been moved since


def _placed(source: Path, target: Path, put: Callable[[Path, Path], object]) -> Path:
    """Put what belongs to a model folder that is whole at `target` too, in place of what is there."""
    check_model_folder(source)
    with alone(target), appearing(target) as partial:
        for file in files(source):
            put(file, partial / file.name)
    if others := left_out(source):
        click.echo(others, err=True)
    return target


def _from_hub(model: str, revision: str | None, place: Path | None, patterns: list[str]) -> tuple[Path, str]:
    """Return (folder, commit) of some files of a model on the Hub, and say in a sentence why it is unavailable."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = f"{model} at revision {revision}" if revision else model
    try:
        with refusals(model, revision):
            return _transfer(model, revision, place, patterns)
    except LocalEntryNotFoundError as error:  # what the library makes of any failure to connect
        raise OpensciError(
            f"{name} is not in the Hub's cache on this machine and the Hub can't be reached: run "
            f"`opensci download {model}` with a network, HF_HUB_OFFLINE unset and the same HF_HOME."
        ) from error
    except HfHubHTTPError as error:
        raise OpensciError(f"The Hub answered for {name}: {str(error).splitlines()[0]}") from error
    except lost_connection() as error:
        raise OpensciError(f"{name} did not arrive whole, download it again: {str(error).splitlines()[0]}") from error


@contextmanager
def refusals(model: str, revision: str | None = None) -> Generator[None]:
    """Say in a sentence why the Hub does not give a model."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{model} at revision {revision}" if revision else model
    try:
        yield
    except GatedRepoError as error:
        raise OpensciError(f"{name} is gated: ask for access on its page and set HF_TOKEN.") from error
    except RevisionNotFoundError as error:
        raise OpensciError(f"{model} has no revision {revision!r}: see its branches and tags.") from error
    except RepositoryNotFoundError as error:
        raise OpensciError(
            f"The Hub has no model {model!r}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    except HFValidationError as error:
        raise OpensciError(
            f"{model!r} is neither a folder, nor {MINIATURE!r}, nor a Hub id of the form owner/name."
        ) from error


def _transfer(model: str, revision: str | None, place: Path | None, patterns: list[str]) -> tuple[Path, str]:
    """Return (folder, commit) of a model on the Hub, or of what its cache holds when there is no network."""
    from huggingface_hub import snapshot_download

    # One small file first: a snapshot in the cache is a folder named after its commit, and all
    # files are then taken from that commit even if the branch moves meanwhile.
    first = Path(snapshot_download(model, revision=revision, allow_patterns=_FIRST))
    commit, listed = first.name, _listed(model, first.name)
    if listed is None:  # the cache alone, since what lies at `place` may be of another commit
        folder = Path(snapshot_download(model, revision=commit, allow_patterns=patterns, local_files_only=True))
        return (_placed(folder, place, link) if place else folder), commit
    _check_transfer(first, listed, _FIRST)
    folder = Path(snapshot_download(model, revision=commit, allow_patterns=patterns, local_dir=place))
    _check_transfer(folder, listed, patterns)
    return folder, commit


def _listed(model: str, commit: str) -> list[RepoSibling] | None:
    """Return the files of a commit with their hashes, or None where the Hub can't be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().model_info(model, revision=commit, files_metadata=True).siblings
    except HfHubHTTPError:
        raise
    except lost_connection():
        return None


def lost_connection() -> tuple[Any, ...]:
    """Return the errors of requests, httpx or httpx2, whichever the release of huggingface_hub is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__bases__[0]


def _check_transfer(folder: Path, there: list[RepoSibling], patterns: list[str]) -> None:
    """Compare the files that were asked for with the Hub's hashes, and remove one that differs."""
    from huggingface_hub.utils import filter_repo_objects

    asked = list(filter_repo_objects(there, allow_patterns=patterns, key=lambda file: file.rfilename))
    for listed in tqdm(asked, "hashes", unit=" files", disable=len(asked) < 2):
        file = (folder / listed.rfilename).resolve()  # not the link to it in the cache
        if not is_listed(file, listed):
            file.unlink()
            raise OpensciError(
                f"{listed.rfilename} in {folder} was not what the Hub lists and is removed: download the model again."
            )


def is_listed(file: Path, listed: RepoSibling) -> bool:
    """Say whether a file is the one that the Hub lists, by its hash there: LFS has a SHA-256, git one of its own."""
    return git_hash(file.read_bytes()) == listed.blob_id if listed.lfs is None else _sha256(file) == listed.lfs.sha256


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def git_hash(content: bytes) -> str:
    """Return what git calls a file with this content: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
