"""A daemon for as long as something is measured: the one that runs, or one of our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from edged.errors import Conflict
from edged.store import Store
from tests.daemon import ROOT, Daemon, until
from tests.models import fake_folder, install
from training.deploy.beside import subject_beside
from training.recipe import Beside
from training.served import serving

pytestmark = pytest.mark.http


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("EDGED_API_KEYS", "EDGED_SOCKET", "EDGED_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    install(Store(tmp_path / "home"), str(fake_folder(tmp_path / "tiny")))
    return tmp_path / "home"


def say(url: str) -> int:
    return httpx.post(f"{url}/chat/completions", json={
        "model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}).status_code


def test_one_of_our_own_serves_for_the_time_and_leaves_nothing_running(home: Path, tmp_path: Path) -> None:
    (home / "loaded.json").write_text(said := '{"models":[{"model":"of-the-operator"}]}')
    with serving(tmp_path / "daemon.log") as server:
        assert server.own
        loaded = server.load("tiny")
        assert say(server.base_url) == 200
        assert loaded.version == Store(home).manifest("tiny").version
        with pytest.raises(Conflict, match="does not exist"):
            server.load("nobody")
        children = psutil.Process(server.pid).children(recursive=True)
    assert (home / "loaded.json").read_text() == said
    assert not psutil.pid_exists(server.pid)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_one_that_runs_is_used_and_goes_on(home: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        with serving(tmp_path / "daemon.log") as server:
            assert not server.own
            assert server.base_url == f"{daemon.base_url}/v1"
            loaded = server.load("tiny")
            assert loaded.version == daemon.json("ps")[0]["version"]
        assert say(f"{daemon.base_url}/v1") == 200


def test_the_memory_of_a_model_is_told_whatever_else_the_daemon_has_loaded(home: Path, tmp_path: Path) -> None:
    install(Store(home), str(fake_folder(tmp_path / "other")))
    with Daemon(tmp_path) as daemon, serving(tmp_path / "daemon.log") as server:
        for _ in range(2):
            loaded = {name: server.load(name) for name in ("other", "tiny")}
        for name, each in loaded.items():
            for _ in until(10):
                if (told := each.resident_bytes()) is not None:
                    break
            [seen] = [each["resident_bytes"] for each in daemon.json("ps") if each["name"] == name]
            assert told == pytest.approx(seen, rel=0.2)
        assert daemon.edged("unload", "other").returncode == 0
        assert loaded["other"].resident_bytes() is None
    assert loaded["tiny"].resident_bytes() is None


@pytest.mark.parametrize(("keys", "answers"), [({"api_keys": "secret"}, 401), ({"admin_keys": "secret"}, 200)])
def test_beside_one_that_asks_for_keys_there_is_one_of_our_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], answers: int,
) -> None:
    with Daemon(tmp_path, **keys) as daemon:
        assert say(f"{daemon.base_url}/v1") == answers
        for name, key in keys.items():
            monkeypatch.setenv(f"EDGED_{name.upper()}", key)
        with serving(tmp_path / "daemon.log") as server:
            assert server.own
            server.load("tiny")
            assert say(server.base_url) == 200


def test_a_model_beside_is_loaded_where_it_is_installed_and_only_asked_where_it_is_elsewhere(
    home: Path, tmp_path: Path,
) -> None:
    with serving(tmp_path / "daemon.log") as server:
        here = subject_beside(Beside(model="tiny"), server, home)
        assert here.loaded == server.load("tiny")
        assert (here.name, here.model, here.base_url) == ("tiny", "tiny", server.base_url)
        assert here.identity == Store(home).manifest("tiny").digest
        assert here.artifact is not None
        assert here.artifact.exists()
        with pytest.raises(Conflict, match="nobody"):
            subject_beside(Beside(model="nobody"), server, home)
        elsewhere = subject_beside(Beside(model="org/big model", endpoint="http://127.0.0.1:1/v1"), server, home)
    assert (elsewhere.name, elsewhere.identity, elsewhere.loaded) == ("org-big-model", None, None)


KILLED = """
import os, sys, time
from pathlib import Path
from training.served import serving
with serving(Path(sys.argv[1])) as server:
    server.load("tiny")
    print(server.pid, flush=True)
    time.sleep(60)
"""


def test_one_that_is_killed_leaves_no_daemon_and_no_worker(home: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "log")], cwd=ROOT, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        daemon = psutil.Process(int(process.stdout.readline()))
        all_of_them = [daemon, *daemon.children(recursive=True)]
        process.kill()
    _, left = psutil.wait_procs(all_of_them, timeout=10)
    assert left == []
