"""One guarded HTTP client for the hub: its token goes to the hub's own host only, redirects are looked at before they
are followed, failures are retried with back-off, and a file continues where it was.

The bytes do not come through huggingface_hub's downloader: it writes into a cache of its own, so that the model would
be on the disk twice; it hashes nothing while streaming; its Xet path cannot be continued by a later process nor
stopped at the announced size. (Xet files are served over plain HTTP with ranges as well.) What huggingface_hub says of
addresses, headers, metadata and errors is used: `edged.store.sources.hub`.
"""

from __future__ import annotations

import functools
import ipaddress
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from edged.errors import SourceUnavailable
from edged.store.blobs import Part
from edged.store.report import Report

ATTEMPTS = 6
_MOST_REDIRECTS = 5
_LONGEST_WAIT_S = 30.0
_MOST_JSON_BYTES = 32 * 1024 * 1024
#: This much received between two failures makes the second a first one again.
_PROGRESS_BYTES = 256 * 1024
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class HubSettings:
    """backoff_s: the first wait after a failure; each further one is twice as long."""

    endpoint: str = "https://huggingface.co"
    token: str | None = None
    backoff_s: float = 0.5

    def __repr__(self) -> str:
        return f"HubSettings(endpoint={self.endpoint!r}, token={'***' if self.token else None})"


class _Again(Exception):
    """This attempt failed in a way that another may not. wait_s: what the server asked for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class HubClient:
    """Context manager; one thread."""

    def __init__(self, settings: HubSettings, headers: dict[str, str]) -> None:
        """headers: for every request, without Authorization."""
        self._settings = settings
        self._endpoint = httpx2.URL(settings.endpoint)
        self._client = httpx2.Client(
            headers={**headers, "accept-encoding": "identity"}, follow_redirects=False, verify=_certificates(),
            timeout=httpx2.Timeout(60.0, connect=15.0),
        )

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def get_json(self, url: str, params: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        """The response, whatever its status below 500, and its body, bounded."""
        waits = self._waits()
        while True:
            try:
                with self._response(url, params, {}) as response:
                    if response.status_code in _RETRIED:
                        raise _Again(f"status {response.status_code}", _retry_after_s(response))
                    body = bytearray()
                    for piece in response.iter_raw():
                        body += piece
                        if len(body) > _MOST_JSON_BYTES:
                            raise SourceUnavailable("the hub's answer about this repository is too long to be one")
                    return response, bytes(body)
            except (_Again, httpx2.TransportError) as error:
                _wait_or_give_up(error, waits, "the hub does not answer")

    def fetch(self, url: str, path: str, size: int, part: Part, report: Report) -> None:
        """Append what is missing of a file to `part`, up to `size` bytes and not one more. path: to name it."""
        waits = self._waits()
        while part.size < size:
            had_bytes = part.size
            try:
                self._continue(url, path, size, part, report)
            except (_Again, httpx2.TransportError) as error:
                if part.size - had_bytes >= _PROGRESS_BYTES:
                    waits = self._waits()
                _wait_or_give_up(error, waits, f"the hub broke off {path} at {part.size} of {size} bytes")

    def _continue(self, url: str, path: str, size: int, part: Part, report: Report) -> None:
        asked_from = part.size
        headers = {"range": f"bytes={asked_from}-"} if asked_from else {}
        with self._response(url, {}, headers) as response:
            status = response.status_code
            if status in _RETRIED:
                raise _Again(f"status {status}", _retry_after_s(response))
            if status == 416 or (status == 200 and asked_from):
                # It cannot continue: from the beginning.
                part.restart()
                report.add(-asked_from)
                if status == 416:
                    raise _Again("it cannot continue")
            elif status == 206 and not response.headers.get("content-range", "").startswith(f"bytes {asked_from}-"):
                raise SourceUnavailable(f"the hub answered with another range of {path} than was asked for")
            elif status not in (200, 206):
                raise SourceUnavailable(f"the hub answered {status} for {path}; `edged pull` again, or look at the hub")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise SourceUnavailable(f"the hub sent {path} compressed, which was not asked for")
            announced = response.headers.get("content-length")
            if announced is not None and announced != str(size - part.size):
                raise _Again(f"{announced} bytes announced instead of {size - part.size}")
            for piece in response.iter_raw():
                if part.size + len(piece) > size:
                    raise SourceUnavailable(f"the hub sends more of {path} than the {size} bytes it announced")
                part.write(piece)
                report.add(len(piece))
            if part.size < size:
                raise _Again("the body was short")

    @contextmanager
    def _response(self, url: str, params: dict[str, Any], headers: dict[str, str]) -> Iterator[httpx2.Response]:
        """The response after redirects; its body is not read yet."""
        target = httpx2.URL(url, params=params) if params else httpx2.URL(url)
        for _ in range(_MOST_REDIRECTS + 1):
            check_target(self._endpoint, target)
            own = {"authorization": f"Bearer {self._settings.token}"} if self._may_have_token(target) else {}
            with self._client.stream("GET", target, headers={**headers, **own}) as response:
                location = response.headers.get("location")
                if not response.is_redirect or location is None:
                    yield response
                    return
            try:
                target = target.join(location)
            except httpx2.InvalidURL as error:
                raise SourceUnavailable("the hub redirects to what is no address") from error
        raise SourceUnavailable("the hub redirects in a circle")

    def _may_have_token(self, target: httpx2.URL) -> bool:
        return self._settings.token is not None and _origin(target) == _origin(self._endpoint)

    def _waits(self) -> Iterator[float]:
        """Seconds to wait before each further attempt: exponential, with jitter so that boxes do not march in step."""
        for attempt in range(ATTEMPTS - 1):
            yield min(self._settings.backoff_s * 2**attempt, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)


def check_target(endpoint: httpx2.URL, target: httpx2.URL) -> None:
    """A redirect may lead to another public host, never to another scheme, to less safety or, from a public hub, to a
    private address (PROMISES T12). Raises SourceUnavailable; no socket is opened."""
    if _origin(target) == _origin(endpoint):
        return
    if target.scheme not in ("http", "https") or (endpoint.scheme == "https" and target.scheme != "https"):
        raise SourceUnavailable(f"the hub redirects to {target.scheme}://, which is not followed")
    if _is_private(target.host) and not _is_private(endpoint.host):
        raise SourceUnavailable("the hub redirects to a private address, which is not followed")


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading them takes longer than all else in a pull of nothing new."""
    return httpx2.create_ssl_context()


def _wait_or_give_up(error: Exception, waits: Iterator[float], what: str) -> None:
    wait_s = next(waits, None)
    if wait_s is None:
        raise SourceUnavailable(
            f"{what} ({str(error)[:120] or type(error).__name__}), {ATTEMPTS} times in a row; what came is kept, "
            "`edged pull` again goes on from there"
        ) from error
    time.sleep(max(wait_s, min(error.wait_s, _LONGEST_WAIT_S) if isinstance(error, _Again) else 0.0))


def _retry_after_s(response: httpx2.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _is_private(host: str) -> bool:
    """True where any address of the host is not a public one. A host that does not resolve here (a proxy may know it)
    counts as public: nothing private is reached by us then."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(address.partition("%")[0]).is_global for address in found)


