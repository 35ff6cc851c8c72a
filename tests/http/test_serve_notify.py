"""What a service manager hears (R8): ready, alive, reloading, stopping."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon, until

pytestmark = pytest.mark.http

WATCHDOG_S = 0.6


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def heard(self, wait_s: float) -> list[str]:
        """Lines of the messages that are there, or come within wait_s."""
        lines: list[str] = []
        while select.select([self._socket], [], [], 0 if lines else wait_s)[0]:
            lines += self._socket.recv(4096).decode().splitlines()
        return lines

    def wait_for(self, line: str) -> list[str]:
        """All that was heard, up to that line."""
        lines: list[str] = []
        for _ in until(10):
            lines += self.heard(0.1)
            if line in lines:
                return lines
        raise AssertionError(f"no {line} in {lines}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def started(folder: Path, manager: Manager) -> Daemon:
    daemon = Daemon(folder)
    daemon.start(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)))
    return daemon


def test_it_is_ready_once_it_answers_alive_while_it_runs_and_stopping_when_it_stops(
    tmp_path: Path, manager: Manager
) -> None:
    with started(tmp_path, manager) as daemon:
        assert f"MAINPID={daemon.pid}" in manager.wait_for("READY=1")
        assert httpx.get(daemon.base_url + "/health/ready").status_code == 200
        manager.wait_for("WATCHDOG=1")
        daemon.signal(signal.SIGHUP)
        heard = manager.wait_for("RELOADING=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in heard)
        assert "READY=1" in heard[heard.index("RELOADING=1"):] or manager.wait_for("READY=1")
        daemon.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert daemon.process.wait(10) == 0


def test_a_daemon_that_stands_still_is_not_said_to_be_alive(tmp_path: Path, manager: Manager) -> None:
    with started(tmp_path, manager) as daemon:
        manager.wait_for("WATCHDOG=1")
        daemon.signal(signal.SIGSTOP)
        manager.heard(0.2)
        assert manager.heard(2 * WATCHDOG_S) == []
        daemon.signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")


def test_a_model_that_loads_for_long_leaves_it_alive(tmp_path: Path, manager: Manager) -> None:
    with started(tmp_path, manager) as daemon:
        daemon.pull_fake("slow", load_s=3 * WATCHDOG_S)
        manager.wait_for("WATCHDOG=1")
        with httpx.stream("POST", daemon.base_url + "/edged/v1/load", json={"model": "slow"}, timeout=30) as response:
            assert response.status_code == 200
        assert manager.heard(0.1).count("WATCHDOG=1") >= 3


def test_its_workers_do_not_get_the_managers_address(tmp_path: Path, manager: Manager) -> None:
    with started(tmp_path, manager) as daemon:
        daemon.pull_fake("tiny")
        assert daemon.edged("load", "tiny").returncode == 0
        [worker] = daemon.workers()
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & worker.environ().keys()
