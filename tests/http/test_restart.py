"""What was in memory comes back after the daemon's end, of whatever kind: real processes, the fake engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon import Daemon, until

pytestmark = pytest.mark.http


def ask(daemon: Daemon, model: str) -> httpx.Response:
    return httpx.post(f"{daemon.base_url}/v1/completions", timeout=30,
                      json={"model": model, "prompt": "go on", "max_tokens": 3})


def kept(daemon: Daemon) -> list[dict[str, Any]]:
    file = daemon.home / "loaded.json"
    return json.loads(file.read_text())["models"] if file.exists() else []


def wait_until_kept(daemon: Daemon, *models: dict[str, Any]) -> None:
    for _ in until(20):
        if kept(daemon) == list(models):
            return
    raise AssertionError(kept(daemon))


def was_in_memory(daemon: Daemon, model: str) -> None:
    (daemon.home / "loaded.json").write_text(json.dumps({"models": [{"model": model}]}))


def kill(daemon: Daemon) -> None:
    """As a power cut would, for what the daemon can do about it."""
    children = daemon.children()
    daemon.process.kill()
    daemon.process.wait()
    for child in children:
        child.wait(10)


def ready(daemon: Daemon, model: str) -> dict[str, Any]:
    for _ in until(20):
        models: list[dict[str, Any]] = httpx.get(f"{daemon.base_url}/edged/v1/ps").json()["models"]
        for told in models:
            if told["name"] == model and told["state"] == "ready":
                return told
    raise AssertionError(daemon.log_file.read_text()[-3000:])


def events(daemon: Daemon, name: str, after: int) -> list[dict[str, Any]]:
    return [entry for entry in daemon.log(after) if entry["event"] == name]


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_model_is_ready_after_a_restart_before_anybody_asks(tmp_path: Path, how: str) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("tiny")
        assert ask(daemon, "tiny").status_code == 200
        wait_until_kept(daemon, {"model": "tiny", "trying": False, "unused": 0})
        if how == "killed":
            kill(daemon)
        else:
            daemon.stop()
        daemon.start()
        assert ready(daemon, "tiny")["reloaded"]
        assert "again after a restart" in daemon.edged("ps").stdout
        assert 'edged_model_reloads_total{model="tiny",outcome="ready"} 1.0' in httpx.get(
            f"{daemon.base_url}/metrics").text
        assert ask(daemon, "tiny").status_code == 200
        assert ready(daemon, "tiny")["restarts"] == 0


def test_a_daemon_that_was_killed_while_it_loaded_one_does_not_try_it_again(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("heavy", load_s=6)
        daemon.stop()
        was_in_memory(daemon, "heavy")
        after = events_end(daemon)
        daemon.start()
        daemon.wait_for_log("model.loading", after=after)
        assert [one["trying"] for one in kept(daemon)] == [True]
        kill(daemon)
        after = events_end(daemon)
        daemon.start()
        left = daemon.wait_for_log("reload.left_out", after=after)
        assert left["model"] == "heavy"
        assert httpx.get(f"{daemon.base_url}/edged/v1/ps").json()["models"] == []
        assert ask(daemon, "heavy").status_code == 200
        daemon.stop()
        daemon.start()
        ready(daemon, "heavy")


def test_a_model_that_cannot_be_loaded_any_more_is_tried_once(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("tiny")
        assert ask(daemon, "tiny").status_code == 200
        daemon.stop()
        # The file on the disk is bad from now on, as after a fault of the disk.
        for blob in (daemon.home / "blobs").rglob("*"):
            if blob.is_file() and blob.stat().st_size:
                blob.chmod(0o600)
                blob.write_text(blob.read_text().replace("{", '{"crash_on_load": true, ', 1))
        after = events_end(daemon)
        daemon.start()
        assert daemon.wait_for_log("reload.ended", after=after)["outcome"] == "failed"
        wait_until_kept(daemon)
        daemon.stop()
        after = events_end(daemon)
        daemon.start()
        assert httpx.get(f"{daemon.base_url}/health/ready").status_code == 200
        assert not events(daemon, "reload.begun", after)


def test_the_start_does_not_wait_for_it(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("slow", load_s=60)
        daemon.stop()
        was_in_memory(daemon, "slow")
        after = events_end(daemon)
        daemon.start()
        assert httpx.get(f"{daemon.base_url}/health/ready").status_code == 200
        daemon.wait_for_log("model.loading", after=after)
        assert not events(daemon, "model.ready", after)


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    with Daemon(tmp_path, reload_models=False) as daemon:
        daemon.pull_fake("tiny")
        assert ask(daemon, "tiny").status_code == 200
        daemon.stop()
        assert not (daemon.home / "loaded.json").exists()
        after = events_end(daemon)
        daemon.start()
        assert httpx.get(f"{daemon.base_url}/edged/v1/ps").json()["models"] == []
        assert not events(daemon, "reload.begun", after)


def events_end(daemon: Daemon) -> int:
    return daemon.log_file.stat().st_size
