"""Bring a fixed folder to the Hub: as a pull request to the model's repository, as a branch of it, or as a mirror."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensci_lib.download import git_hash, is_listed, lost_connection, refusals
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import RECORD, all_rules, foreign
from opensci_lib.hotfix.proofs import proof_of
from opensci_lib.hotfix.rewriting import unified
from opensci_lib.model_folder import check_model_folder, code_digest, files, read_json

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_TITLE = "Load and compute the same on later releases of transformers"
#: What a mirror takes over from the source's repository besides the model's own files.
_PAPERS = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "README.md")
_CARD = "README.md"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEAD = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Parcel:
    """What is to be sent where, worked out and not sent yet."""

    src_dir: str
    repo_id: str
    #: The branch that it is for.
    revision: str
    #: "pull request", "branch" or "mirror".
    kind: str
    #: The commit that it is made for, or None where the repository does not exist yet.
    parent: str | None
    title: str
    description: str
    #: What is sent: file name to content, or to the file with it.
    files: dict[str, bytes | Path]
    #: Unified diff against the commit; of a mirror, against the files that the folder was made of.
    diff: str
    #: What became of it: "open: …", "up to date" and the like; "" while there is something to send.
    outcome: str = ""

    def shown(self) -> str:
        """Return all of it in words: where it goes, its files and their sizes, the diff, title and description."""
        where = f"{self.kind} for {self.repo_id}, {self.revision}" + (f" ({self.parent})" if self.parent else "")
        sizes = "".join(f"  {name}  {_size(content):,} bytes\n" for name, content in self.files.items())
        return f"{where}\n{sizes}\n{self.diff}\n{self.title}\n\n{self.description}"


def prepare(
    src_dir: Path | str,
    repo_id: str | None = None,
    revision: str | None = None,
    branch: str | None = None,
    mirror: bool = False,
    unproven: bool = False,
) -> Parcel:
    """Work out what is to be sent of a fixed folder; nothing is written, here or on the Hub.

    Args:
        src_dir: a folder that `opensci hotfix` made.
        repo_id: the repository that the model came from, by default the recorded one; the new one for a mirror.
        revision: the branch on which the pull request is opened; by default that of the download, or main.
        branch: commit to this branch instead, which is made where there is none.
        mirror: make a repository of one's own of the whole folder instead.
        unproven: allow a folder that `opensci prove` has not passed; the description says so.

    Raises:
        OpensciError: when the folder is not as the hotfix left it or not proven, the repository is unavailable, or
            its files are not those that the folder was made of.

    """
    folder = check_model_folder(src_dir)
    if not (folder / RECORD).exists():
        raise OpensciError(f"{folder} is no folder that `opensci hotfix` made: publish the one that it writes.")
    record = read_json(folder / RECORD)
    gone = [name for name in record["sources"] if not (folder / name).exists()]
    if other := [*foreign(folder, record), *gone]:
        raise OpensciError(f"{folder} is not as the hotfix left it ({', '.join(other)}): make it again.")
    proof, digest = proof_of(folder), code_digest(folder)
    record["proven"] = proof and {**proof, "digest": digest}
    if not proof and not unproven:
        raise OpensciError(f"{folder} is not proven: run `opensci prove` on it, or say --unproven.")
    origin = record.get("origin", {})
    if mirror:
        return _mirror(folder, record, origin, repo_id)
    if (repo_id := repo_id or origin.get("model")) is None:
        raise OpensciError(f"{folder} does not say which repository it came from: give its --repo_id.")
    revision = revision or origin.get("revision") or "main"
    return _change(folder, record, repo_id, revision, branch)


def send(parcel: Parcel) -> Parcel:
    """Send a parcel, unless it has an outcome already, and return it with what became of it.

    All of it arrives as one commit, or nothing does. Weights of a mirror that arrived before a connection was lost
    are not sent again.

    Raises:
        OpensciError: when there is no token or no right to write, or something else became of the repository.

    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if parcel.outcome:
        return parcel
    if get_token() is None:
        raise OpensciError("The Hub wants to know who sends this: run `hf auth login`, or set HF_TOKEN.")
    api, is_request = HfApi(), parcel.kind == "pull request"
    with _refusals(parcel.repo_id, parcel.revision):
        if parcel.kind == "mirror":
            api.create_repo(parcel.repo_id, exist_ok=True)
        elif not is_request:
            api.create_branch(parcel.repo_id, branch=parcel.revision, revision=parcel.parent, exist_ok=True)
        commit = api.create_commit(
            parcel.repo_id,
            [CommitOperationAdd(name, content) for name, content in parcel.files.items()],
            commit_message=parcel.title,
            commit_description=parcel.description if parcel.kind != "mirror" else None,
            revision=parcel.revision,
            create_pr=is_request,
            parent_commit=parcel.parent,
        )
    return replace(parcel, outcome=f"open: {commit.pr_url}" if is_request else f"sent: {commit.commit_url}")


def publish(
    src_dirs: Iterable[Path | str], agreed: Callable[[Parcel], bool], **options: Any
) -> Generator[tuple[str, str, bool]]:
    """Send the parcels of some fixed folders, each after it was agreed to.

    Yields a folder, what became of it in words, and whether that is well. A folder that can't be sent does not stop
    the others; what is open, merged or refused on the Hub already is left alone.

    Args:
        src_dirs: the folders.
        agreed: is shown each parcel, and says whether it is to be sent.
        options: see `prepare`.

    """
    for src_dir in src_dirs:
        try:
            parcel = prepare(src_dir, **options)
            if agreed(parcel):
                parcel = send(parcel)
        except OpensciError as error:
            yield str(src_dir), str(error), False
        else:
            yield str(src_dir), f"{parcel.repo_id}, {parcel.revision}: {parcel.outcome or 'not sent'}", True


# ---------------------------------------------------------------- the two kinds of parcel


def _change(folder: Path, record: dict[str, Any], repo_id: str, revision: str, branch: str | None) -> Parcel:
    """Return what changed against the repository, for a pull request, or for a branch if one is named."""
    if not branch and _COMMIT.fullmatch(revision):
        raise OpensciError(
            f"{revision} is a commit, and a pull request is opened on a branch: give it as --revision."
        )
    there = (_look(repo_id, branch) if branch else None) or _look(repo_id, revision)
    if there is None:
        raise OpensciError(f"{repo_id} has no revision {revision!r}: see its branches and tags.")
    target = branch or revision
    title = _TITLE if revision == "main" else f"{_TITLE} ({revision})"
    kind = "branch" if branch else "pull request"
    sent = _missing(there, {name: folder / name for name in record["changed"]})
    parcel = Parcel(str(folder), repo_id, target, kind, there.sha, title, "", sent, "")
    if not sent:
        return replace(parcel, outcome=f"up to date: {target} holds these files already")
    diff = _diff(folder, _sources(folder, record, repo_id, there))
    if not branch and (earlier := _request(repo_id, title)):
        return replace(parcel, diff=diff, outcome=earlier)
    tried = branch or "refs/pr/N"
    return replace(parcel, diff=diff, description=description(record, repo_id, revision, tried))


def _sources(folder: Path, record: dict[str, Any], repo_id: str, there: ModelInfo) -> dict[str, str]:
    """Return the texts of the files that the hotfix changed, if all files of the commit are those that it saw."""
    from huggingface_hub import hf_hub_download

    listed, before = _listed(there), {}
    for name, identity in record["sources"].items():
        same = name in listed
        if same and name in record["changed"]:
            with _refusals(repo_id):
                content = Path(hf_hub_download(repo_id, name, revision=there.sha)).read_bytes()
            same = hashlib.sha256(content).hexdigest() == identity["sha256"]
            before[name] = content.decode() if same else ""
        elif same:
            same = is_listed(folder / name, listed[name])
        if not same:
            raise OpensciError(
                f"{name} of {repo_id} at {there.sha} is not the one that {folder} was made of: "
                "download the model and fix it again."
            )
    return {name: before[name] for name in record["changed"]}


def _diff(folder: Path, before: dict[str, str]) -> str:
    return "".join(unified(name, text, (folder / name).read_bytes().decode()) for name, text in before.items())


def _request(repo_id: str, title: str) -> str:
    """Say what became of the pull request of this title, or return "" if there is none; nobody is asked twice."""
    from huggingface_hub import HfApi

    with _refusals(repo_id):
        found = [
            request
            for request in HfApi().get_repo_discussions(repo_id, discussion_type="pull_request")
            if request.title == title
        ]
    return f"{found[0].status}: {found[0].url}" if found else ""


def _mirror(folder: Path, record: dict[str, Any], origin: dict[str, Any], repo_id: str | None) -> Parcel:
    """Return the whole folder, with a card that says what it is a mirror of."""
    if not origin:
        raise OpensciError(
            f"{folder} does not say which repository it came from: download the model and fix it again."
        )
    if repo_id in (None, origin["model"]):
        raise OpensciError(f"A mirror of {origin['model']} is a repository of your own: give its --repo_id.")
    there = _look(repo_id) if _exists(repo_id) else None
    if _listed(there).keys() - {".gitattributes"} and not _is_mirror(repo_id, there, origin["model"]):
        raise OpensciError(f"{repo_id} exists and is no mirror of {origin['model']}: choose another --repo_id.")
    source = _look(origin["model"], origin["commit"])
    if source is None:
        raise OpensciError(
            f"{origin['model']} no longer has the commit {origin['commit']}: download the model again."
        )
    papers = _papers(origin, source)
    card = _card(record, origin, repo_id, papers.pop(_CARD, b"").decode())
    content: dict[str, bytes | Path] = {file.name: file for file in files(folder)}
    sent = _missing(there, content | papers | {_CARD: card.encode()})
    parent, title = there.sha if there else None, f"Mirror {origin['model']}, fixed"
    diff = _diff(folder, _sources(folder, record, origin["model"], source))
    parcel = Parcel(str(folder), repo_id, "main", "mirror", parent, title, card, sent, diff)
    return parcel if sent else replace(parcel, outcome="up to date: the mirror holds these files already")


def _papers(origin: dict[str, Any], source: ModelInfo) -> dict[str, bytes]:
    from huggingface_hub import hf_hub_download

    with _refusals(origin["model"]):
        return {
            name: Path(hf_hub_download(origin["model"], name, revision=source.sha)).read_bytes()
            for name in _PAPERS
            if name in _listed(source)
        }


def _is_mirror(repo_id: str, there: ModelInfo | None, model: str) -> bool:
    """Say whether a repository's card names the model as what it is a mirror of."""
    from huggingface_hub import hf_hub_download

    if there is None or _CARD not in _listed(there):
        return False
    with _refusals(repo_id):
        card = Path(hf_hub_download(repo_id, _CARD, revision=there.sha)).read_text(encoding="utf-8")
    return f"A mirror of {_link(model)}" in card


# ---------------------------------------------------------------- words


def description(record: dict[str, Any], repo_id: str, revision: str = "main", tried: str = "refs/pr/N") -> str:
    """Return the description of a change in Markdown."""
    download = f"opensci download {repo_id} " + (f"--revision {revision} " if revision != "main" else "")
    number = "\n\nN is the number of this pull request." if tried == "refs/pr/N" else ""
    return f"""\
This model's code was written for one snapshot of `transformers`. {_claim(record)} The weights and the \
vocabulary stay as they are, and nothing is patched at run time.

## What breaks, on which releases

{_causes(record)}

## How it was proven

{_proof(record)}

```
{download}--local_dir model
opensci hotfix --src_dir model
opensci prove --src_dir model
```

## How to try it

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{repo_id}", revision="{tried}", trust_remote_code=True)
```{number}

## Licence

The licence stays. Each changed Python file says below it that it was changed, by what and from what, as section \
4(b) of the Apache License 2.0 asks.
"""


def _card(record: dict[str, Any], origin: dict[str, Any], repo_id: str, card: str) -> str:
    """Return the card of a mirror: the source's settings, what this is, and the source's own card."""
    head = _HEAD.match(card)
    settings, own = (head[1], card[head.end() :]) if head else ("", card)
    licence = re.search(r"^license:\s*(\S+)", settings, re.MULTILINE)
    settings = re.sub(r"^base_model:.*\n(?:[ -].*\n)*", "", settings, flags=re.MULTILINE)
    return f"""\
---
{settings}base_model: {origin["model"]}
---

# {repo_id.rpartition("/")[2]}

A mirror of {_link(origin["model"])} at commit `{origin["commit"]}`, with its code fixed. {_claim(record)} The \
weights and the vocabulary are the source's. Licence: {licence[1] if licence else "as the source's"}.

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{repo_id}", trust_remote_code=True)
```

## What was changed

{_causes(record)}

Each changed Python file says so below its licence.

## How it was proven

{_proof(record)}

## The source's own card

{own.strip() or "It has none."}
"""


def _claim(record: dict[str, Any]) -> str:
    if not (proven := record.get("proven")):
        releases = record.get("releases", "later ones")
        return f"This change is meant to let it load on {releases} and compute what it computed."
    first, last = (release.rpartition(".")[0] for release in (proven["releases"][0], proven["releases"][-1]))
    return f"With this change it loads on all from {first} to {last} and gives the same logits, bit for bit."


def _causes(record: dict[str, Any]) -> str:
    """Return a line for each rule that applied."""
    applied = [rule for rule in all_rules() if rule.id in record["applied"]]
    return "\n".join(f"- **{rule.releases}**: {rule.cause} (`{rule.id}`)" for rule in applied)


def _proof(record: dict[str, Any]) -> str:
    made = f"Made by {record['tool']}."
    if not (proven := record.get("proven")):
        return f"It is **not proven**: nobody has compared this model's logits before and after yet. {made}"
    series: dict[str, list[str]] = {}
    for release in proven["releases"]:
        series.setdefault(release.partition(".")[0], []).append(release)
    rows = "".join(f"| {', '.join(releases)} | equal, bit for bit |\n" for releases in series.values())
    return (
        f"| transformers | logits, compared with the unchanged files |\n|---|---|\n{rows}\n"
        f"Digest of what was compared: `{proven['digest']}`. {made}"
    )


def _link(model: str) -> str:
    return f"[{model}](https://huggingface.co/{model})"


# ---------------------------------------------------------------- the Hub


def _exists(repo_id: str) -> bool:
    from huggingface_hub import HfApi

    with _refusals(repo_id):
        return HfApi().repo_exists(repo_id)


def _look(repo_id: str, revision: str | None = None) -> ModelInfo | None:
    """Return what a repository holds, with hashes, or None where it has no such revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    with _refusals(repo_id, revision):
        try:
            return HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        except RevisionNotFoundError:
            return None


def _listed(there: ModelInfo | None) -> dict[str, RepoSibling]:
    return {file.rfilename: file for file in there.siblings or []} if there else {}


def _missing(there: ModelInfo | None, content: dict[str, bytes | Path]) -> dict[str, bytes | Path]:
    """Return the files that a commit does not hold as they are."""
    listed = _listed(there)
    return {name: found for name, found in content.items() if name not in listed or not _is(found, listed[name])}


def _is(content: bytes | Path, listed: RepoSibling) -> bool:
    return is_listed(content, listed) if isinstance(content, Path) else git_hash(content) == listed.blob_id


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


@contextmanager
def _refusals(repo_id: str, revision: str | None = None) -> Generator[None]:
    """Say in a sentence why the Hub takes or gives nothing."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with refusals(repo_id, revision):
            yield
    except HfHubHTTPError as error:
        words = getattr(error, "server_message", None)
        said = f" ({words})" if words else ""
        known = {
            401: "The Hub does not know this token: run `hf auth login`, or set HF_TOKEN.",
            403: f"This token may not do that at {repo_id}{said}: give one that may, or ask its owners.",
            409: f"{repo_id} changed meanwhile, and nothing was sent: run the command again.",
        }
        known[412] = known[409]
        answer = f"The Hub answered for {repo_id}: {str(error).splitlines()[0]}"
        raise OpensciError(known.get(error.response.status_code, answer)) from error
    except ValueError as error:  # the settings at the top of a card are not as they should be
        raise OpensciError(f"The Hub does not take the {_CARD} for {repo_id}: put it right at the source.") from error
    # The library wraps what breaks an upload off in a RuntimeError.
    except (*lost_connection(), RuntimeError) as error:
        raise OpensciError(
            f"The connection to the Hub was lost at {repo_id}: run the command again, it goes on where it stopped."
        ) from error
