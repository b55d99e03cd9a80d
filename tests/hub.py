"""A Hugging Face Hub of one repository, on loopback: as much of its HTTP interface as downloads use."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """Serves `folder` as `repository`; `commits` maps branches to commits, `requests` lists what was asked."""

    def __init__(self, folder: Path, repository: str, commits: dict[str, str]):
        self.folder, self.repository, self.commits = folder, repository, commits
        self.requests: list[tuple[str, str]] = []
        self.authorizations: list[str | None] = []
        self.cut_after: int | None = None  # drop the connection after so many bytes of a file, once


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
        hub.authorizations.append(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if found := re.fullmatch(rf"/api/models/{hub.repository}(?:/revision/(.+))?", path):
            self._info(found[1] or "main", with_body)
        elif found := re.fullmatch(rf"/api/models/{hub.repository}/tree/(.+)", path):
            self._json([self._entry(file) for file in sorted(hub.folder.iterdir())], with_body)
        elif found := re.fullmatch(rf"/{hub.repository}/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], with_body)
        else:
            self._error(404, "RepoNotFound")

    def _entry(self, file: Path):
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": self._etag(file)}

    def _etag(self, file: Path):
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def _commit(self, revision: str):
        known = self.hub.commits
        return known.get(revision) or (revision if revision in known.values() else None)

    def _info(self, revision: str, with_body: bool):
        if (commit := self._commit(revision)) is None:
            return self._error(404, "RevisionNotFound")
        siblings = [{"rfilename": file.name} for file in sorted(self.hub.folder.iterdir())]
        return self._json({"id": self.hub.repository, "sha": commit, "siblings": siblings}, with_body)

    def _file(self, revision: str, name: str, with_body: bool):
        commit, file = self._commit(revision), self.hub.folder / name
        if commit is None or not file.exists():
            return self._error(404, "RevisionNotFound" if commit is None else "EntryNotFound")
        body, start = file.read_bytes(), 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self._etag(file)}"')
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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
