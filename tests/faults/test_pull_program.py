"""`python -m edged.store.pull`, as the daemon runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edged.store import Store
from edged.store.entries import JobLine
from tests.hub import Hub
from tests.models import gguf_bytes

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
_line = msgspec.json.Decoder(JobLine)


def started(home: Path, hub: Hub, reference: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EDGED_HOME": str(home), "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_canary_0123", "EDGED_MODELS": "off",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "edged.store.pull", reference, "--json-progress"], cwd=home.parent, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


def test_it_prints_progress_and_last_the_manifest(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add("org/m", "m-Q4_0.gguf", gguf_bytes(1, 1_000_000))
        process = started(tmp_path / "home", hub, "org/m")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    lines = [_line.decode(line) for line in out.splitlines()]
    assert lines[-1].manifest == Store(tmp_path / "home").manifest("org/m")
    progress = [line.progress for line in lines[:-1] if line.progress is not None]
    assert len(progress) == len(lines) - 1
    assert {moment.stage for moment in progress} >= {"downloading", "publishing", "done"}
    assert progress[-1].done_bytes == progress[-1].total_bytes == 1_000_000
    assert "hf_canary" not in out


def test_it_prints_last_the_error_and_ends_with_1(tmp_path: Path) -> None:
    with Hub() as hub:
        process = started(tmp_path / "home", hub, "org/nobody")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")
    error = _line.decode(out.splitlines()[-1]).error
    assert error is not None
    assert (error.status, error.code, error.retry) == (404, "model_not_found", False)
    assert "hf_canary" not in out


def test_sigterm_ends_it_at_once_and_the_next_goes_on(tmp_path: Path) -> None:
    model = gguf_bytes(1, 3_000_000)
    halfway, go_on = threading.Event(), threading.Event()

    def pace(path: str, at: int) -> None:
        if at > 1_500_000 and not go_on.is_set():
            halfway.set()
            go_on.wait(30)

    with Hub() as hub:
        hub.add("org/m", "m-Q4_0.gguf", model)
        hub.faults.pace = pace
        process = started(tmp_path / "home", hub, "org/m")
        assert halfway.wait(30)
        while not any(part.stat().st_size > 1_000_000 for part in (tmp_path / "home" / "tmp").iterdir()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
        assert process.returncode == 128 + signal.SIGTERM
        go_on.set()
        process = started(tmp_path / "home", hub, "org/m")
        process.communicate(timeout=60)
        assert process.returncode == 0
        asked = [request.headers.get("range") for request in hub.requests if request.server == "content"]
    assert asked[0] is None
    assert int((asked[1] or "").removeprefix("bytes=").removesuffix("-")) > 1_000_000
    assert Store(tmp_path / "home").verify() == []
