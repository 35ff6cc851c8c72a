"""Clients that misbehave on the connection itself: raw sockets against the real daemon."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http


@pytest.fixture(scope="module")
def strict(start: Callable[..., Daemon]) -> Daemon:
    return start(receive_timeout_s=0.5, max_body_bytes=100_000, max_header_bytes=8192)


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=10)


def read_all(sock: socket.socket) -> bytes:
    got = b""
    while piece := sock.recv(65536):
        got += piece
    return got


def drip(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(0.02)


def post_head(daemon: Daemon, length: int | None, path: str = "/v1/chat/completions") -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return (f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{daemon.port}\r\ncontent-type: application/json\r\n{size}\r\n\r\n"
            ).encode()


@pytest.mark.parametrize("line", [b"x-filler: " + b"y" * 100 + b"\r\n", b"z" * 100])
def test_a_header_without_end_is_431_and_closed(strict: Daemon, line: bytes) -> None:
    with connect(strict) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\n" + line * 100)
        answer = read_all(sock)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_a_whole_header_that_is_too_large_is_431(strict: Daemon) -> None:
    answer = httpx.get(strict.base_url + "/health/live", headers={"x-filler": "y" * 9000})
    assert answer.status_code == 431


def test_a_client_that_drips_its_header_is_closed_at_the_deadline(strict: Daemon) -> None:
    with connect(strict) as sock:
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(sock, b"GET /health/live HTTP/1.1\r\nhost: " + b"x" * 400)
        assert 0.4 < time.monotonic() - began < 3


def test_a_client_that_says_nothing_is_closed_at_the_deadline(strict: Daemon) -> None:
    with connect(strict) as sock:
        began = time.monotonic()
        assert read_all(sock) == b""
        assert 0.4 < time.monotonic() - began < 3


def test_a_client_that_drips_its_body_is_told_and_closed(strict: Daemon) -> None:
    with connect(strict) as sock:
        sock.sendall(post_head(strict, 1000) + b'{"model"')
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 400
        assert json.loads(answer.read())["error"]["code"] == "request_timeout"


def test_an_idle_connection_is_kept_beyond_the_deadline_between_requests(strict: Daemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
    for _ in range(2):
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"live"}'
        sock = connection.sock
        time.sleep(0.8)
    assert connection.sock is sock
    connection.close()


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_413_and_the_client_can_read_it(strict: Daemon, declared: bool) -> None:
    body = b'{"x": "' + b"y" * 3_000_000 + b'"}'
    content: Any = body if declared else (body[at: at + 50_000] for at in range(0, len(body), 50_000))
    answer = httpx.post(strict.base_url + "/v1/chat/completions", content=content,
                        headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_another_kind_of_body_is_415_on_every_route_that_reads_one(strict: Daemon) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/edged/v1/load", "/edged/v1/unload", "/edged/v1/pull"):
        answer = httpx.post(strict.base_url + path, content=b'{"model":"tiny"}', headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_garbage_instead_of_http_harms_nobody(strict: Daemon) -> None:
    with connect(strict) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http"
    assert httpx.get(strict.base_url + "/health/live").status_code == 200


def test_a_slow_reader_pauses_its_own_row_only(daemon: Daemon) -> None:
    body = json.dumps({"model": "wordy", "messages": [{"role": "user", "content": "x"}], "max_tokens": 60_000,
                       "stream": True, "logprobs": True, "top_logprobs": 20}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", daemon.port))
        sock.sendall(post_head(daemon, len(body)) + body)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        seen = -1
        while (used := daemon.status("wordy")["kv_used_tokens"]) != seen:
            seen = used
            time.sleep(1.2)
        assert 0 < seen < 20_000
        answer = daemon.openai().chat.completions.create(
            model="wordy", messages=[{"role": "user", "content": "y"}], max_tokens=200)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 200
        for _ in range(40):
            sock.recv(65536)
        time.sleep(1.2)
        assert daemon.status("wordy")["kv_used_tokens"] > seen
    began = time.monotonic()
    while daemon.status("wordy")["running"]:
        assert time.monotonic() - began < 1
        time.sleep(0.02)
