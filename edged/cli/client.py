"""A running daemon, over its Unix socket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from edged.cli.exit_codes import NoDaemon
from edged.errors import EdgedError, Internal

CONNECT_TIMEOUT_S = 5.0

T = TypeVar("T")


class _Failure(msgspec.Struct, frozen=True):
    message: str
    type: str = "server_error"
    code: str | None = None


class _Failed(msgspec.Struct, frozen=True):
    error: _Failure


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """GET /edged/v1/status."""

    version: str
    pid: int
    home: str
    socket: str | None
    addresses: list[str]
    uptime_s: float
    ready: bool
    loaded: int
    running: int
    waiting: int


class Client:
    """Calls raise what the daemon raised, and NoDaemon where it cannot be reached or goes away. No call has a time
    limit once connected: a load takes as long as it takes."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://edged", trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        )

    def status(self) -> DaemonStatus:
        return self.get("/edged/v1/status", DaemonStatus)

    def get(self, path: str, shape: type[T]) -> T:
        return self._call("GET", path, None, shape)

    def post(self, path: str, body: dict[str, Any], shape: type[T]) -> T:
        return self._call("POST", path, body, shape)

    def delete(self, path: str, shape: type[T]) -> T:
        return self._call("DELETE", path, None, shape)

    def events(self, path: str, body: dict[str, Any] | None = None) -> Generator[bytes, None, None]:
        """The data of each server-sent event; without a body, of a GET. Close the iterator to hang up, which ends what
        the daemon does for it."""
        with self._reached(), self._http.stream(
                "GET" if body is None else "POST", path, json=body) as response:
            if response.is_error:
                response.read()
                raise _error(response.status_code, response.content)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield line.removeprefix("data: ").encode()

    def pieces(self, path: str) -> Iterator[bytes]:
        """The body of a GET as it comes."""
        with self._reached(), self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise _error(response.status_code, response.content)
            yield from response.iter_bytes()

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None, shape: type[T]) -> T:
        with self._reached():
            response = self._http.request(method, path, json=body)
        if response.is_error:
            raise _error(response.status_code, response.content)
        try:
            return msgspec.json.decode(response.content, type=shape)
        except msgspec.MsgspecError as error:
            raise Internal(
                f"the daemon at {self.socket} answers in another way than this command expects ({error}); "
                "`edged doctor` compares their versions"
            ) from error

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise NoDaemon(f"the daemon at {self.socket} does not answer or went away ({_words(error)}); is it still "
                           "there? `edged doctor` looks") from error


def model_path(name: str, *, under: str = "models") -> str:
    return f"/edged/v1/{under}/{quote(name)}"


def stream_error(data: bytes) -> EdgedError | None:
    """The error that an event of a stream tells, if it tells one."""
    try:
        failed = msgspec.json.decode(data, type=_Failed)
    except msgspec.MsgspecError:
        return None
    return _revived(500, failed.error)


def _error(status: int, content: bytes) -> EdgedError:
    try:
        return _revived(status, msgspec.json.decode(content, type=_Failed).error)
    except msgspec.MsgspecError:
        return Internal(f"the daemon answered {status}: {content[:200].decode(errors='replace')}")


def _revived(status: int, failure: _Failure) -> EdgedError:
    """The class of the error tree with that status, the nearest by code."""
    same = [kind for kind in _classes(EdgedError) if kind.status == status]
    same.sort(key=lambda kind: kind.default_code != failure.code)
    return (same[0] if same else Internal)(failure.message, code=failure.code)


def _classes(root: type[EdgedError]) -> Iterator[type[EdgedError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


def _words(error: Exception) -> str:
    cause = error.__cause__ or error
    number = getattr(cause, "errno", None)
    return os.strerror(number) if isinstance(number, int) else str(error) or type(error).__name__
