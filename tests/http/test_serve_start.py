"""How `edged serve` starts, and how it does not."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.daemon import EDGED, ROOT, Daemon, environment

pytestmark = pytest.mark.http


def test_it_serves_what_was_pulled_and_says_where(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("tiny")
        told = httpx.post(daemon.base_url + "/v1/chat/completions",
                          json={"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}, timeout=30)
        assert told.status_code == 200, told.text
        assert told.json()["choices"][0]["message"]["content"]
        assert daemon.listening["home"] == str(tmp_path / "home")
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
        assert stat.S_IMODE(daemon.home.stat().st_mode) == 0o700
    assert not daemon.socket.exists()


def refused(tmp_path: Path, *flags: str, **more: str) -> tuple[int, str]:
    """Exit code and standard error of a start that fails, within two seconds."""
    began_s = time.monotonic()
    told = subprocess.run([*EDGED, "serve", "--port=0", *flags], cwd=ROOT, env=environment(tmp_path, **more), text=True,
                          capture_output=True, timeout=20, check=False)
    assert time.monotonic() - began_s < 2.0
    assert told.stdout == ""
    return told.returncode, told.stderr


def test_a_second_start_on_the_same_port_is_one_line_and_leaves_the_first_alone(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one") as first:
        port = first.listening["port"]
        code, said = refused(tmp_path / "two", f"--port={port}")
        assert code == 2
        assert said.count("\n") == 1
        assert f"127.0.0.1:{port} is in use" in said
        assert httpx.get(first.base_url + "/health/ready").status_code == 200
