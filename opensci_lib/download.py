"""Find a model: on the Hugging Face Hub, in a local folder, or the built-in `miniature`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from opensci_lib import kernels, project
from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import DOWNLOAD_RECORD, appearing, check_model_folder, files, link, write_json

MINIATURE = "miniature"
# The release whose numbers are the reference, and under which the miniature is trained.
REFERENCE_RELEASE = "4.48.0"
# Weights as safetensors only: a pickle runs code when it is opened.
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.py", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Download:
    """Where a model lies, and how large its weights are.

    `commit` is the Hub commit, or None for what is not from the Hub.
    """

    model: str
    revision: str | None
    commit: str | None
    path: str
    weights_bytes: int


def download(model: str, revision: str | None = None, local_dir: Path | str | None = None) -> Download:
    """Bring a model's weights, code, configuration and tokenizer to this machine, and check that it is whole.

    Args:
        model: a Hub id such as "open-sci/open-sci-ref-v0.01-1.7b-nemotron-hq-1T-16384", a local
            folder, or "miniature", which is trained here if need be.
        revision: a branch, tag or commit on the Hub.
        local_dir: where to put it; by default the Hub's cache, or where the folder already lies.
            The outcome is recorded there as `download.json`, and what is complete is not asked for again.

    The Hub's own variables hold: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN. An interrupted
    download goes on where it stopped.

    Raises:
        OpensciError: when the model can't be had or is incomplete.

    """
    if local_dir and (found := _recorded(Path(local_dir))) and (found.model, found.revision) == (model, revision):
        return found
    commit = None
    if model == MINIATURE:
        path = Path(local_dir or project.OUTPUTS / MINIATURE / "original")
        _build_miniature(path)
    elif Path(model).exists():
        path = check_model_folder(model)
        if local_dir:
            with appearing(Path(local_dir)) as partial:
                for file in files(path):
                    link(file, partial / file.name)
            path = Path(local_dir)
    else:
        path, commit = _from_hub(model, revision, local_dir)
    folder = check_model_folder(path)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    found = Download(model, revision, commit, str(folder), size)
    if local_dir:
        write_json(Path(local_dir) / DOWNLOAD_RECORD, asdict(found))
    return found


def _recorded(local_dir: Path) -> Download | None:
    """Return what an earlier download to this folder wrote down when it was complete."""
    record = local_dir / DOWNLOAD_RECORD
    found = json.loads(record.read_text()) if record.exists() else {}
    # A record of an older version of this package may hold less.
    return Download(**found) if {field.name for field in fields(Download)} == set(found) else None


def _build_miniature(path: Path) -> None:
    """Train the miniature in the reference release's environment, unless it is there."""
    if (path / "config.json").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if kernels.run(REFERENCE_RELEASE, "-m", "opensci_lib.miniature.train", path).returncode:
        raise OpensciError(f"Training the miniature under transformers {REFERENCE_RELEASE} failed: see above why.")


def _from_hub(model: str, revision: str | None, local_dir: Path | str | None) -> tuple[Path, str]:
    """Return (folder, commit) of a model on the Hub, or of what its cache holds when there is no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{model} at revision {revision}" if revision else model
    try:
        # One small file first: a snapshot in the cache is a folder named after its commit, and all
        # files are then taken from that commit even if the branch moves meanwhile.
        commit = Path(snapshot_download(model, revision=revision, allow_patterns=["config.json"])).name
        folder = snapshot_download(model, revision=commit, local_dir=local_dir, allow_patterns=_PATTERNS)
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
    except LocalEntryNotFoundError as error:  # what the library makes of any failure to connect
        raise OpensciError(
            f"{name} is not in the Hub's cache on this machine and the Hub can't be reached: run "
            f"`opensci download {model}` with a network, HF_HUB_OFFLINE unset and the same HF_HOME."
        ) from error
    except HfHubHTTPError as error:
        raise OpensciError(f"The Hub answered for {name}: {str(error).splitlines()[0]}") from error
    return Path(folder), commit
