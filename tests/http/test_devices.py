"""A device that is required and is not here, and `edged bench` beside a running daemon, as clients and operators see
them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.daemon import Daemon, until

pytestmark = pytest.mark.http

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def test_a_required_device_that_is_lacking_is_503_and_says_not_to_retry(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.models_file.write_text('[models.m]\nrequire = "cuda"\n')
        daemon.pull_fake("m")
        httpx.post(f"{daemon.base_url}/edged/v1/reload").raise_for_status()
        answer = httpx.post(f"{daemon.base_url}/v1/chat/completions", json={"model": "m", **BODY})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "device_unavailable")
        assert "runs on cpu, and cuda is required" in error["message"]
        assert "edged-device" not in answer.headers
        assert httpx.get(f"{daemon.base_url}/health/ready").status_code == 200
        told = daemon.edged("load", "m")
        assert told.returncode == 1
        assert "cuda is required" in told.stderr
        ranking = daemon.json("hardware", "m")["ranking"]
        assert [(row["provider"], row["fits"]) for row in ranking] == [("cpu", False)]


def test_what_bench_finds_faster_is_served_from_then_on(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("m", token_ms=0.2)
        fast = daemon.json("show", "m")["active"]
        daemon.pull_fake("m", token_ms=3)
        slow = daemon.json("show", "m")["active"]
        assert served(daemon) == f"m@{slow}"
        told = daemon.json("bench", "m", "--seconds", "0.1")
        assert (told["active"], told["activated"]) == (fast, True)
        assert served(daemon) == f"m@{fast}"
        shown = daemon.edged("hardware", "m").stdout
        assert f"→  {fast}" in shown
        assert "measured here: " in shown
        assert daemon.json("show", "m")["history"][-1]["by"] == "bench"
        (loaded,) = [each for each in daemon.json("ps") if each["version"] == fast]
        assert (loaded["device"], loaded["reason"]) == ("cpu", "cpu is the only one that can run it here")


def test_bench_leaves_a_busy_daemon_alone_unless_it_is_told_not_to(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("m", token_ms=20, end_chance=0)
        endless = {"model": "m", "stream": True, "max_tokens": 3000, "messages": BODY["messages"]}
        stop = threading.Event()

        def read() -> None:
            with httpx.stream("POST", f"{daemon.base_url}/v1/chat/completions", json=endless, timeout=60) as stream:
                for _ in stream.iter_lines():
                    if stop.is_set():
                        return

        reading = threading.Thread(target=read)
        reading.start()
        for _ in until(20):
            if daemon.json("ps") and daemon.json("ps")[0]["running"]:
                break
        refused = daemon.edged("bench", "m", "--seconds", "0.1")
        assert refused.returncode == 5
        assert "the daemon has 1 requests" in refused.stderr
        assert daemon.json("bench", "m", "--seconds", "0.1", "--busy")["ranking"][0]["speed"] is not None
        stop.set()
        reading.join()


def test_the_machine_is_told_over_http_as_by_command(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        facts = httpx.get(f"{daemon.base_url}/edged/v1/hardware").json()
        told = daemon.json("hardware")
        assert told["facts"]["cpu"]["model"] == facts["cpu"]["model"]
        assert sorted(told["facts"]["cpu"]["features"]) == sorted(facts["cpu"]["features"])
        assert told["facts"]["software"] == facts["software"]
        assert told["providers"]["cpu"] == facts["cpu"]["model"]
        assert told["fingerprint"] in daemon.edged("hardware").stdout
        doctor = daemon.edged("doctor").stdout
        assert "`edged hardware NAME` ranks" in doctor
        assert psutil.Process(daemon.pid).memory_info().rss < 72 * 1024 * 1024


def served(daemon: Daemon) -> str:
    answer = httpx.post(f"{daemon.base_url}/v1/chat/completions", json={"model": "m", **BODY}, timeout=30)
    assert answer.headers["edged-device"] == "cpu"
    return answer.headers["edged-model"]
