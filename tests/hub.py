"""A hub-shaped server on loopback, with faults that tests switch on.

Two HTTP servers on port 0. The hub, `http://127.0.0.1:PORT`, has the API (`/api/models/…`) and the files' addresses
(`/REPO/resolve/REV/PATH`); small files come from there, LFS files are redirected to the content server,
`http://localhost:PORT2`, which is another host. Headers are those of the real hub (etag, x-repo-commit,
x-linked-etag, x-linked-size), so that huggingface_hub's own downloader works against it too. Every request is noted in
`requests`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, quote, unquote, urlsplit

from edged.store.sources.transfer import HubSettings


@dataclass
class Request:
    """sent_bytes: of the body, as far as they were written."""

    server: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent_bytes: int = 0


@dataclass
class Faults:
    """What goes wrong from now on, each by the file's path in its repository, or "*" for all files.

    wrong_bytes: the body has one bit flipped. short: so many bytes of the body, then the connection is closed.
    drop_each: the connection is closed after so many bytes of each response, ranges work. statuses: answers of the
    next requests, in turn. gzip: a content-encoding nobody asked for. longer: so many bytes more than announced.
    no_ranges: Range headers are ignored. location: where LFS files are redirected to instead. announce: another
    content-length. refuse: the token that is demanded.
    """

    wrong_bytes: set[str] = field(default_factory=set)
    drop_each: dict[str, int] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    content_statuses: list[int] = field(default_factory=list)
    gzip: set[str] = field(default_factory=set)
    longer: dict[str, int] = field(default_factory=dict)
    no_ranges: bool = False
    location: str | None = None
    announce: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    #: Called before each piece of a body: may block, to hold a download in the middle.
    pace: Callable[[str, int], None] | None = None


@dataclass(frozen=True)
class Stored:
    path: str
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_sha1(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


class Hub:
    """Context manager. `add` files to a repository, point HF_ENDPOINT or `settings` at it."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Stored]] = {}
        self.requests: list[Request] = []
        self.faults = Faults()
        self._hub = _serve(self, "hub", "127.0.0.1")
        self._content = _serve(self, "content", "127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def content_url(self) -> str:
        return f"http://localhost:{self._content.server_address[1]}"

    @property
    def settings(self) -> HubSettings:
        return HubSettings(endpoint=self.url, backoff_s=0.001)

    def add(self, repo: str, path: str, data: bytes, *, lfs: bool | None = None) -> Stored:
        """lfs: by default weights are LFS files, as on the hub."""
        weights = path.endswith((".gguf", ".onnx", ".safetensors", ".data"))
        stored = Stored(path, data, lfs if lfs is not None else weights)
        self.repositories.setdefault(repo, {})[path] = stored
        return stored

    def commit(self, repo: str) -> str:
        """Another one whenever a file changes."""
        files = self.repositories[repo]
        return hashlib.sha1(repr(sorted((path, file.sha256) for path, file in files.items())).encode()).hexdigest()

    def sent_bytes(self, ending: str = "") -> int:
        """Body bytes of files whose path ends so."""
        return sum(request.sent_bytes for request in self.requests
                   if not request.path.startswith("/api/") and urlsplit(request.path).path.endswith(ending))

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None,
    ) -> None:
        for server in (self._hub, self._content):
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub
    role: str

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests are killed in the middle; that is no news."""


def _serve(hub: Hub, role: str, host: str) -> _Server:
    server = _Server((host, 0), _Handler)
    server.hub, server.role = hub, role
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        self.note = Request(self.server.role, self.command, self.path,
                            {name.lower(): value for name, value in self.headers.items()})
        hub.requests.append(self.note)
        statuses = hub.faults.statuses if self.server.role == "hub" else hub.faults.content_statuses
        if statuses:
            self._send(statuses.pop(0), b"")
            return
        if self.server.role == "content":
            _, _, repo, path = self.path.split("/", 3)
            self._send_file(hub.repositories[unquote(repo)][unquote(path)])
            return
        if hub.faults.token is not None and self.headers.get("authorization") != f"Bearer {hub.faults.token}":
            self._send(401, b"", {"x-error-code": "GatedRepo"})
            return
        address = urlsplit(self.path)
        if (api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", address.path)) is not None:
            self._send_api(api[1], api[2], api[3], parse_qs(address.query))
        elif (file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", address.path)) is not None:
            self._send_resolved(file[1], unquote(file[3]))
        else:
            self._send(404, b"", {"x-error-code": "RepoNotFound"})

    def _send_api(self, repo: str, kind: str | None, revision: str | None, query: dict[str, list[str]]) -> None:
        hub = self.server.hub
        if repo not in hub.repositories:
            self._send(404, b"", {"x-error-code": "RepoNotFound"})
            return
        if revision not in (None, "main", hub.commit(repo)):
            self._send(404, b"", {"x-error-code": "RevisionNotFound"})
            return
        files = hub.repositories[repo].values()
        if kind == "tree":
            listed = [
                {"type": "file", "path": file.path, "size": len(file.data), "oid": file.git_sha1} for file in files
            ]
            self._send(200, json.dumps(listed).encode())
            return
        siblings = [self._sibling(file) if query.get("blobs") else {"rfilename": file.path} for file in files]
        body = {"id": repo, "modelId": repo, "sha": hub.commit(repo), "siblings": siblings, "tags": []}
        self._send(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _sibling(self, file: Stored) -> dict[str, object]:
        faults = self.server.hub.faults
        size = faults.sizes.get(file.path, len(file.data))
        sibling: dict[str, object] = {"rfilename": file.path, "size": size, "blobId": file.git_sha1}
        if file.lfs:
            sha256 = faults.hashes.get(file.path, file.sha256)
            sibling["lfs"] = {"size": size, "sha256": sha256, "pointerSize": 134}
        return sibling

    def _send_resolved(self, repo: str, path: str) -> None:
        hub = self.server.hub
        file = hub.repositories.get(repo, {}).get(path)
        if file is None:
            self._send(404, b"", {"x-error-code": "EntryNotFound"})
            return
        if not file.lfs:
            self._send_file(file, {"x-repo-commit": hub.commit(repo), "etag": f'"{file.git_sha1}"'})
            return
        location = hub.faults.location or f"{hub.content_url}/content/{quote(repo, safe='')}/{quote(path)}"
        self._send(302, b"", {
            "location": location, "x-repo-commit": hub.commit(repo), "x-linked-etag": f'"{file.sha256}"',
            "x-linked-size": str(len(file.data)),
        })

    def _send_file(self, file: Stored, headers: dict[str, str] | None = None) -> None:
        faults = self.server.hub.faults
        data, status, extra = file.data, 200, {"etag": f'"{file.sha256}"', "accept-ranges": "bytes", **(headers or {})}
        if _hit(faults.wrong_bytes, file.path):
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if asked is not None and not faults.no_ranges:
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            if start >= len(data):
                self._send(416, b"", {"content-range": f"bytes */{len(data)}"})
                return
            extra["content-range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start:end + 1], 206
        if _hit(faults.gzip, file.path):
            extra["content-encoding"] = "gzip"
        data += b"\0" * faults.longer.get(file.path, 0)
        self._send(status, data, extra, path=file.path)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, path: str = "") -> None:
        faults = self.server.hub.faults
        self.note.status = status
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(faults.announce.get(path, len(body))))
        self.end_headers()
        if self.command == "HEAD":
            return
        most = faults.drop_each.get(path, faults.drop_each.get("*", len(body)) if path else len(body))
        for start in range(0, min(most, len(body)), 1 << 16):
            if faults.pace is not None and path:
                faults.pace(path, start)
            piece = body[start:min(start + (1 << 16), most)]
            self.wfile.write(piece)
            self.note.sent_bytes += len(piece)
        if most < len(body) or path in faults.announce:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def _hit(paths: set[str], path: str) -> bool:
    return path in paths or "*" in paths
