"""A stand-in for the Hugging Face Hub on loopback: repositories in memory, over its real API.

    with Hub() as hub:
        hub.repos["model", "owner/name"] = Repo({"config.json": b"{}"})
        run(..., env=hub.environment(tmp_path))

It speaks what `huggingface_hub` needs: `/api/{kind}s/{repo}/revision/{rev}`, `/tree/{rev}`, and
`/resolve/{rev}/{file}` with HEAD, ETag, redirect-free bodies and `Range`.
"""

import hashlib
import json
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False
    token: str = ""
    """With it the repository is private, or its terms are accepted."""
    tags: tuple[str, ...] = ()
    breaks_after: int = 0
    """The connection breaks once, after so many bytes of a body."""
    stalls_after: int = 0
    """A body stops after so many bytes, and no more comes."""
    stalled: threading.Event = field(default_factory=threading.Event)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and `Range` of every request."""

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """For a process that knows no other Hub, and no token but one that is given."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return clean | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "*"} | more


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        api = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"(/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            kind, repo, what, revision = api.groups()
        elif file:
            kind, what = "dataset" if file[1] else "model", "file"
            repo, revision = file[2], file[3]
        else:
            return self._refuse(404, "EntryNotFound")
        found = self.hub.repos.get((kind, repo))
        known = found and self.headers.get("Authorization") == f"Bearer {found.token}"
        if found is None or (found.token and not found.gated and not known):
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", found.commit, *found.tags):
            return self._refuse(404, "RevisionNotFound")
        if what == "revision":
            named = [{"rfilename": name} for name in found.files]
            return self._json({"id": repo, "sha": found.commit, "siblings": named})
        if what == "tree":
            return self._json([
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in found.files.items()
            ])  # fmt: skip
        if found.gated and not known:
            return self._refuse(403, "GatedRepo")
        assert file is not None
        self._file(found, file[4])

    def _file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            return self._refuse(404, "EntryNotFound")
        whole = repo.files[name]
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["0"])[0])
        body = whole[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(whole)}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = len(body)
        if 0 < repo.breaks_after < sent:
            sent, repo.breaks_after, self.close_connection = repo.breaks_after, 0, True
        elif 0 < repo.stalls_after < sent:
            sent = repo.stalls_after
        with suppress(ConnectionError):
            self.wfile.write(body[:sent])
            if sent == repo.stalls_after:
                repo.stalled.set()
                self.rfile.read()  # until the other side is gone

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
