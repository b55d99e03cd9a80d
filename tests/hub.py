"""A Hugging Face Hub of one repository, on loopback: as much of its HTTP interface as downloads use."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """Serves `folder` as `repository`; `commits` maps branches to commits, `requests` lists what was asked.

    As on the real one, weights are LFS files, whose hash is a sha256, and the rest are git's own.
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

    def _answer(self, with_body: bool):
        hub = self.hub
        hub.requests.append((self.command, self.path))
        if hub.repository in self.path:  # the library asks for other things too
            hub.authorizations.append(self.headers.get("Authorization"))
        for part, failure in hub.failures.items():
            if part in self.path:
                if failure is None:
                    self.close_connection = True
                    return None
                return self._error(*failure)
        path = self.path.split("?")[0]
        if found := re.fullmatch(rf"/api/models/{hub.repository}(?:/revision/(.+))?", path):
            self._info(found[1] or "main", with_body)
        elif found := re.fullmatch(rf"/api/models/{hub.repository}/tree/(.+)", path):
            commit = self._commit(found[1])
            self._json([self._entry(file) for file in sorted(hub.files(commit).iterdir())], with_body)
        elif found := re.fullmatch(rf"/{hub.repository}/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], with_body)
        else:
            self._error(404, "RepoNotFound")
        return None

    def _entry(self, file: Path):
        listed = self.hub.listed(file)
        lfs = {"lfs": {"oid": listed["lfs"]["sha256"], **listed["lfs"]}} if "lfs" in listed else {}
        return {"type": "file", "path": file.name, "size": listed["size"], "oid": listed["blobId"], **lfs}

    def _commit(self, revision: str):
        known = self.hub.commits
        if commit := known.get(revision):
            known[revision] = self.hub.moves.get(revision, commit)
            return commit
        return revision if revision in {*known.values(), *self.hub.folders} else None

    def _info(self, revision: str, with_body: bool):
        if (commit := self._commit(revision)) is None:
            return self._error(404, "RevisionNotFound")
        siblings = [self.hub.listed(file) for file in sorted(self.hub.files(commit).iterdir())]
        if "blobs=" not in self.path:
            siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
        return self._json({"id": self.hub.repository, "sha": commit, "siblings": siblings}, with_body)

    def _file(self, revision: str, name: str, with_body: bool):
        commit = self._commit(revision)
        file = self.hub.files(commit) / name
        if commit is None or not file.exists():
            return self._error(404, "RevisionNotFound" if commit is None else "EntryNotFound")
        body, start = file.read_bytes(), 0
        if with_body:
            body = self.hub.spoiled.pop(name, body)
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.hub.hash(file)}"')
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

    def _json(self, value, with_body: bool):
        body = json.dumps(value).encode()
        self.send_response(200)
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
