"""A model hub on this machine, for tests: the few requests that the hub's client makes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class FakeHub:
    """Repositories by name, and what was asked of them."""

    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    """Repository: revision: files by name. The first revision is ``main``."""
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Repository: the HTTP status and the error code that it answers with."""
    asked: list[str] = field(default_factory=list)
    """``METHOD file`` for each file, in order, as ``HEAD owner/name config.json``."""
    endpoint: str = ""

    def add(self, repo: str, folder: Path, revision: str = "main", **changed: bytes) -> None:
        """Publish the files of ``folder``; ``changed`` ones, by name, replace its own."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repos.setdefault(repo, {})[revision] = files | changed

    def commit(self, repo: str, revision: str) -> str | None:
        """The commit that a branch, or a commit itself, stands for."""
        names = self.repos.get(repo, {})
        commits = {name: hashlib.sha1(f"{repo}@{name}".encode()).hexdigest() for name in names}
        return commits.get(revision, revision if revision in commits.values() else None)

    def files(self, repo: str, commit: str) -> Files:
        return next(
            files for name, files in self.repos[repo].items() if self.commit(repo, name) == commit
        )

    def weights_asked(self) -> list[str]:
        """Requests for weights."""
        return [line for line in self.asked if line.endswith(".safetensors")]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer at ``hub.endpoint`` while it is open."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            api = parts[0] == "api"
            parts = parts[2:] if api else parts
            repo, rest = "/".join(parts[:2]), parts[2:]
            if repo in hub.refusals or repo not in hub.repos:
                status, code = hub.refusals.get(repo, (404, "RepoNotFound"))
                return self._send(status, b"", {"X-Error-Code": code}, body)
            commit = hub.commit(repo, rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            files = hub.files(repo, commit)
            if api:
                return self._send(200, self._listing(repo, commit, files, rest), {}, body)
            name = "/".join(rest[2:])
            hub.asked.append(f"{self.command} {repo} {name}")
            if name not in files:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            etag = hashlib.sha1(files[name]).hexdigest()
            return self._send(
                200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, body
            )

        def _listing(self, repo: str, commit: str, files: Files, rest: list[str]) -> bytes:
            sizes = {name: len(data) for name, data in files.items()}
            if rest and rest[0] == "tree":
                return json.dumps(
                    [
                        {"type": "file", "path": name, "size": size, "oid": f"{size:040x}"}
                        for name, size in sizes.items()
                    ]
                ).encode()
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            return json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()

        def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
