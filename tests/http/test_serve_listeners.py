"""A client that goes away, or reads nothing, costs only itself on either listener (R5, R15)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.daemon import Daemon, until

pytestmark = pytest.mark.http


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("listeners")) as made:
        made.pull_fake("torrent", end_chance=0, context=1_000_000)
        made.pull_fake("reader", token_ms=20)
        yield made


def connect(daemon: Daemon, listener: str) -> socket.socket:
    if listener == "tcp":
        sock = socket.create_connection(("127.0.0.1", daemon.listening["port"]))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(daemon.socket))
    sock.settimeout(20)
    return sock


def ask(daemon: Daemon, listener: str, model: str, content: str = "go") -> socket.socket:
    """A chat that streams, of which nothing was read yet."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": content}]}).encode()
    sock = connect(daemon, listener)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
                 b"content-length: %d\r\n\r\n%s" % (daemon.listening["port"], len(body), body))
    return sock


def status(daemon: Daemon, model: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{daemon.base_url}/edged/v1/models/{model}").json()
    return found


def freed_after_s(daemon: Daemon, model: str) -> float:
    began_s = time.monotonic()
    for _ in until(10):
        found = status(daemon, model)
        if found["running"] + found["waiting"] == 0:
            return time.monotonic() - began_s
    raise AssertionError("it was not freed")


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_client_that_goes_away_in_its_stream_frees_its_row_within_a_second(daemon: Daemon, listener: str) -> None:
    with ask(daemon, listener, "torrent") as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert freed_after_s(daemon, "torrent") < 1.0


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_client_that_goes_away_in_prefill_frees_its_row_within_a_second(daemon: Daemon, listener: str) -> None:
    daemon.edged("load", "reader")
    with ask(daemon, listener, "reader", "word " * 700):
        for _ in until(10):
            if status(daemon, "reader")["running"]:
                break
    assert freed_after_s(daemon, "reader") < 1.0


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_client_that_reads_nothing_pauses_only_itself(daemon: Daemon, listener: str) -> None:
    with ask(daemon, listener, "torrent"):
        used = 0
        for _ in until(15, every_s=1.2):
            before, used = used, status(daemon, "torrent")["kv_used_tokens"]
            if used == before > 0:
                break
        assert used == before > 0, "it went on though nobody read"
        answer = httpx.post(daemon.base_url + "/v1/chat/completions", timeout=10, json={
            "model": "torrent", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]})
        assert answer.status_code == 200
    assert freed_after_s(daemon, "torrent") < 1.5
