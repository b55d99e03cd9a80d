"""A Hugging Face Hub on loopback: as much of its HTTP interface as downloads and publishing use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import constants

READER, WRITER = "hf_reader", "hf_writer"


class Hub:
    """Serves `folder` as `repository`; `commits` maps branches to commits, `requests` lists what was asked.

    As on the real one, weights are LFS files, whose hash is a sha256, and the rest are git's own. READER may open
    pull requests and make repositories, WRITER may commit besides.
    """

    def __init__(self, folder: Path, repository: str, commits: dict[str, str]):
        self.folder, self.repository, self.commits = folder, repository, commits
        self.folders: dict[str, Path] = {}  # what commits hold whose files are not those of `folder`
        self.requests: list[tuple[str, str]] = []
        self.authorizations: list[str | None] = []
        self.transfers: list[tuple[str, str | None, int]] = []  # (file, Range asked for, bytes sent) of each GET
        self.cut_after: int | None = None  # drop the connection after so many bytes of a file, once
        self.spoiled: dict[str, bytes] = {}  # file to what is sent instead of it, once
        # Part of an address to the (status, code) that it gets, or None where the connection is dropped.
        self.failures: dict[str, tuple[int, str] | None] = {}
        self.moves: dict[str, str] = {}  # branch to the commit that it moves to once it was asked for
        self.pulls: list[dict] = []  # pull requests: title, description, status, author
        self.messages: dict[str, dict] = {}  # commit to the header that it was sent with, and the names of its files
        self.large: dict[str, bytes] = {}  # what arrived in LFS, by sha256
        self.created: dict[str, Hub] = {}  # repositories that were made, by name

    def files(self, commit: str) -> Path:
        """Return the folder that a commit holds."""
        return self.folders.get(commit, self.folder)

    def listed(self, file: Path) -> dict:
        """Return what is said of a file: as weights it is in LFS, and git has a pointer to it."""
        content = file.read_bytes()
        said = {"rfilename": file.name, "size": len(content)}
        if file.suffix == ".safetensors":
            digest = hashlib.sha256(content).hexdigest()
            said["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
            )
        return {**said, "blobId": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()}

    def commit(self, revision: str, lines: list[dict], create_pr: bool) -> str | None:
        """Commit what create_commit sends to a branch or a new pull request; None where the branch moved on."""
        header, *sent = [line["value"] for line in lines]
        base = header.get("parentCommit", self.commits[revision])
        if not create_pr and base != self.commits[revision]:
            return None
        commit = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        there = self.folder.with_name(f"{self.repository.replace('/', '--')}-{commit}")
        shutil.copytree(self.files(base), there)
        for file in sent:
            content = base64.b64decode(file["content"]) if "content" in file else self.large[file["oid"]]
            (there / file["path"]).write_bytes(content)
        self.folders[commit] = there
        self.messages[commit] = header | {"files": [file["path"] for file in sent], "onto": revision}
        if create_pr:
            self.pulls.append({"title": header["summary"], "description": header["description"], "status": "open"})
            revision = f"refs/pr/{len(self.pulls)}"
        self.commits[revision] = commit
        return commit

    def hash(self, file: Path) -> str:
        """Return the hash of a file's content, which is its ETag."""
        listed = self.listed(file)
        return listed["lfs"]["sha256"] if "lfs" in listed else listed["blobId"]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._fails():
            self._take(body)

    def do_PUT(self):
        """Take a file into LFS, as the address that the batch gave says."""
        length, cut = int(self.headers["Content-Length"]), self.hub.cut_after
        body = self.rfile.read(length if cut is None else cut)
        if cut is not None:
            self.hub.cut_after, self.close_connection = None, True
            return
        if not self._fails():
            self.hub.transfers.append(("PUT", None, len(body)))
            self.hub.large[hashlib.sha256(body).hexdigest()] = body
            self._json({}, True)

    def _fails(self) -> bool:
        """Note the request, and give the answer that a test has put in its place, if any."""
        hub = self.hub
        hub.requests.append((self.command, self.path))
        if any(name in self.path for name in (hub.repository, *hub.created)):  # the library asks for other things too
            hub.authorizations.append(self.headers.get("Authorization"))
        for part, failure in hub.failures.items():
            if part in self.path:
                if failure is None:
                    self.close_connection = True
                else:
                    self._error(*failure)
                return True
        return False

    def _named(self) -> Hub:
        """Return the repository that the address names, if it was made here."""
        return next((hub for name, hub in self.hub.created.items() if f"/{name}" in self.path), self.hub)

    def _take(self, body: bytes):
        """Answer what publishing sends."""
        path, _, query = self.path.partition("?")
        hub, token = self._named(), self.headers.get("Authorization", "").removeprefix("Bearer ")
        repository = f"/api/models/{hub.repository}"
        if path.endswith("/info/lfs/objects/batch"):
            return self._json({"objects": [self._wanted(file) for file in json.loads(body)["objects"]]}, True)
        if path == "/api/validate-yaml":
            return self._json({}, True)
        if token not in (READER, WRITER):
            return self._error(401, "")
        if path == "/api/repos/create":
            asked = json.loads(body)
            return self._create(f"{asked['organization']}/{asked['name']}")
        if found := re.fullmatch(rf"{repository}/preupload/(.+)", path):
            files = self._hashes(hub, unquote(found[1]))
            answers = [
                {"path": name, "uploadMode": "lfs" if name.endswith(".safetensors") else "regular"}
                | {"shouldIgnore": False, "oid": files.get(name)}
                for name in (file["path"] for file in json.loads(body)["files"])
            ]
            return self._json({"files": answers}, True)
        create_pr, may_write = "create_pr=1" in query, token == WRITER or hub is not self.hub
        if not create_pr and not may_write:
            return self._error(403, "")
        if found := re.fullmatch(rf"{repository}/branch/(.+)", path):
            if unquote(found[1]) in hub.commits:
                return self._error(409, "")
            hub.commits[unquote(found[1])] = json.loads(body)["startingPoint"]
            return self._json({}, True)
        if found := re.fullmatch(rf"{repository}/commit/(.+)", path):
            commit = hub.commit(unquote(found[1]), [json.loads(line) for line in body.splitlines()], create_pr)
            if commit is None:
                return self._error(412, "")
            address = f"http://{self.headers['Host']}/{hub.repository}"
            request = f"{address}/discussions/{len(hub.pulls)}"
            return self._json(
                {"commitUrl": f"{address}/commit/{commit}", "commitOid": commit, "pullRequestUrl": request}, True
            )
        return self._error(404, "RepoNotFound")

    def _hashes(self, hub: Hub, revision: str) -> dict[str, str]:
        """Return name and hash of what a revision holds."""
        return {file.name: hub.hash(file) for file in hub.files(hub.commits.get(revision, "")).iterdir()}

    def _wanted(self, file: dict) -> dict:
        """Say where a file of LFS is to be sent, or nothing of that where it is here."""
        if file["oid"] in self.hub.large:
            return file
        return file | {"actions": {"upload": {"href": f"http://{self.headers['Host']}/lfs/{file['oid']}"}}}

    def _create(self, name: str):
        if name in {self.hub.repository, *self.hub.created}:
            return self._json({"url": f"http://{self.headers['Host']}/{name}"}, True, status=409)
        folder = self.hub.folder.with_name(name.replace("/", "--"))
        folder.mkdir()
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        made = self.hub.created[name] = Hub(folder, name, {"main": "0" * 40})
        made.folders["0" * 40], made.large = folder, self.hub.large
        return self._json({"url": f"http://{self.headers['Host']}/{name}"}, True)

    def _answer(self, with_body: bool):
        if self._fails():
            return None
        hub = self._named()
        path = unquote(self.path.split("?")[0])
        if found := re.fullmatch(rf"/api/models/{hub.repository}(?:/revision/(.+))?", path):
            self._info(hub, found[1] or "main", with_body)
        elif path == f"/api/models/{hub.repository}/discussions":
            pulls = [self._pull(hub, number, pull) for number, pull in enumerate(hub.pulls, 1)]
            self._json({"count": len(pulls), "start": 0, "discussions": pulls}, with_body)
        elif found := re.fullmatch(rf"/api/models/{hub.repository}/tree/(.+)", path):
            commit = self._commit(hub, found[1])
            self._json([self._entry(file) for file in sorted(hub.files(commit).iterdir())], with_body)
        elif found := re.fullmatch(rf"/{hub.repository}/resolve/(.+)/([^/]+)", path):
            self._file(hub, found[1], found[2], with_body)
        else:
            self._error(404, "RepoNotFound")
        return None

    def _entry(self, file: Path):
        listed = self.hub.listed(file)
        lfs = {"lfs": {"oid": listed["lfs"]["sha256"], **listed["lfs"]}} if "lfs" in listed else {}
        return {"type": "file", "path": file.name, "size": listed["size"], "oid": listed["blobId"], **lfs}

    def _pull(self, hub: Hub, number: int, pull: dict) -> dict:
        return {
            "num": number, "title": pull["title"], "status": pull["status"], "isPullRequest": True,
            "createdAt": "2026-01-01T00:00:00.000Z", "author": {"name": "someone"},
            "repo": {"name": hub.repository, "type": "model"},
        }  # fmt: skip

    def _commit(self, hub: Hub, revision: str):
        known = hub.commits
        if commit := known.get(revision):
            known[revision] = hub.moves.get(revision, commit)
            return commit
        return revision if revision in {*known.values(), *hub.folders} else None

    def _info(self, hub: Hub, revision: str, with_body: bool):
        if (commit := self._commit(hub, revision)) is None:
            return self._error(404, "RevisionNotFound")
        siblings = [hub.listed(file) for file in sorted(hub.files(commit).iterdir())]
        if "blobs=" not in self.path:
            siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
        return self._json({"id": hub.repository, "sha": commit, "siblings": siblings}, with_body)

    def _file(self, hub: Hub, revision: str, name: str, with_body: bool):
        commit = self._commit(hub, revision)
        file = hub.files(commit) / name
        if commit is None or not file.exists():
            return self._error(404, "RevisionNotFound" if commit is None else "EntryNotFound")
        body, start = file.read_bytes(), 0
        if with_body:
            body = self.hub.spoiled.pop(name, body)
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hub.hash(file)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            cut, body = self.hub.cut_after, body[start:]
            if cut is not None and len(body) > cut:
                self.hub.cut_after, body = None, body[:cut]
                self.close_connection = True
            self.hub.transfers.append((name, self.headers.get("Range"), len(body)))
            self.wfile.write(body)
        return None

    def _json(self, value, with_body: bool, status: int = 200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _error(self, status: int, code: str):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(hub: Hub):
    """Serve `hub` on a free loopback port while the block runs; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def taken_for_the_real_one(address: str, home: Path, monkeypatch) -> dict[str, str]:
    """Let this process use the Hub at an address, with an empty cache and no token; returns the variables for others.

    The library reads its variables when it is imported.
    """
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no token"))
    return {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
