"""How `edged serve` ends (R6): SIGTERM lets requests in flight end, a second one ends them, nothing is left behind."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.daemon import Daemon, until

pytestmark = pytest.mark.http

FOREVER = {"end_chance": 0, "step_ms": 20, "context": 100_000}


class Stream:
    """A chat that streams in a thread of its own. pieces: texts that came; finish: the reason of its choice; whole:
    [DONE] came too."""

    def __init__(self, daemon: Daemon, model: str, *, max_tokens: int = 90_000) -> None:
        self.pieces = 0
        self.finish: str | None = None
        self.error: dict[str, Any] | None = None
        self.whole = False
        self._body = {"model": model, "messages": [{"role": "user", "content": "go"}], "stream": True,
                      "max_tokens": max_tokens}
        self._url = daemon.base_url + "/v1/chat/completions"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        for _ in until(20):
            if self.pieces:
                return
        raise AssertionError("no token came")

    def end(self, limit_s: float = 20) -> None:
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), "the stream did not end"

    def _run(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=30) as response:
                for line in response.iter_lines():
                    self._take(line.removeprefix("data: "))
        except httpx.TransportError as error:
            self.error = self.error or {"code": f"cut off: {error}"}

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.whole = True
        elif data.startswith("{"):
            told = json.loads(data)
            self.error = told.get("error") or self.error
            for choice in told.get("choices", []):
                self.pieces += bool(choice["delta"].get("content"))
                self.finish = choice["finish_reason"] or self.finish


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, grace_s=10, hang_timeout_s=60) as made:
        yield made


def ended(daemon: Daemon, limit_s: float) -> float:
    """Seconds until it is gone, with exit code 0 and without children."""
    began_s, children = time.monotonic(), daemon.children()
    assert daemon.process.wait(limit_s) == 0
    assert psutil.wait_procs(children, timeout=2)[1] == []
    assert not daemon.socket.exists()
    return time.monotonic() - began_s


def test_streams_in_flight_end_whole_and_new_requests_are_told_to_come_again(daemon: Daemon) -> None:
    daemon.pull_fake("steady", end_chance=0, step_ms=20)
    streams = [Stream(daemon, "steady", max_tokens=100) for _ in range(2)]
    daemon.signal(signal.SIGTERM)
    daemon.wait_for_log("stopping")
    refused = httpx.post(daemon.base_url + "/v1/chat/completions", timeout=10,
                         json={"model": "steady", "messages": [{"role": "user", "content": "me too"}]})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert int(refused.headers["retry-after"]) >= 1
    assert httpx.get(daemon.base_url + "/health/ready").status_code == 503
    for stream in streams:
        stream.end()
        assert (stream.finish, stream.whole, stream.error) == ("length", True, None)
    ended(daemon, 10)


def test_a_second_signal_ends_streams_at_once_with_an_error(daemon: Daemon) -> None:
    daemon.pull_fake("endless", **FOREVER)
    stream = Stream(daemon, "endless")
    daemon.signal(signal.SIGTERM)
    daemon.wait_for_log("stopping")
    daemon.signal(signal.SIGINT)
    assert ended(daemon, 10) < 5
    stream.end()
    assert stream.error is not None
    assert stream.error["code"] == "shutting_down"
    assert not stream.whole


def test_at_the_deadline_streams_are_ended_with_an_error(tmp_path: Path) -> None:
    with Daemon(tmp_path, grace_s=0.5) as daemon:
        daemon.pull_fake("endless", **FOREVER)
        stream = Stream(daemon, "endless")
        daemon.signal(signal.SIGTERM)
        ended(daemon, 10)
        stream.end()
        assert stream.error is not None
        assert stream.error["code"] == "shutting_down"


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_worker_that_does_nothing_any_more_is_killed_at_the_deadline(tmp_path: Path, how: str) -> None:
    with Daemon(tmp_path, grace_s=0.5, hang_timeout_s=60) as daemon:
        daemon.pull_fake("stuck", **FOREVER, ignore_sigterm=True, hang_at_token=5 if how == "hung" else None)
        stream = Stream(daemon, "stuck")
        if how == "stopped":
            for worker in daemon.workers():
                worker.suspend()
        daemon.signal(signal.SIGTERM)
        ended(daemon, 15)
        stream.end()
        assert not stream.whole


def test_clients_that_keep_idle_connections_do_not_hold_it_up(daemon: Daemon) -> None:
    with httpx.Client(base_url=daemon.base_url) as client:
        assert client.get("/health/ready").status_code == 200
        daemon.signal(signal.SIGTERM)
        assert ended(daemon, 10) < 3


def test_a_client_that_reads_nothing_does_not_hold_it_up(tmp_path: Path) -> None:
    with Daemon(tmp_path, grace_s=0.5) as daemon:
        daemon.pull_fake("torrent", end_chance=0, context=100_000)
        body = {"model": "torrent", "messages": [{"role": "user", "content": "go"}], "stream": True}
        with httpx.stream("POST", daemon.base_url + "/v1/chat/completions", json=body, timeout=30) as response:
            assert response.status_code == 200
            daemon.signal(signal.SIGTERM)
            assert ended(daemon, 15) < 10
