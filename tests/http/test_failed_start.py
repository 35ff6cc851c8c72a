"""R12: a start that fails has started no worker, though a model is to be loaded from the start on."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import psutil
import pytest

from edged.store import Store
from tests.http.test_serve_start import refused
from tests.worker.daemon.rig import install

pytestmark = pytest.mark.http


def workers_of(folder: Path) -> list[int]:
    """A worker has a session of its own and outlives its parent if nobody cares; its HOME says whose it is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "edged.worker" in process.cmdline() and process.environ().get("HOME") == str(folder):
                found.append(process.pid)
    return found


def test_a_start_that_fails_leaves_no_worker_though_a_model_is_pinned(tmp_path: Path) -> None:
    install(Store(tmp_path / "home"), "pinned", load_s=5)
    models = tmp_path / "models.toml"
    models.write_text("[models.pinned]\npin = true\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = refused(tmp_path, f"--models-file={models}", f"--port={taken.getsockname()[1]}")
    assert code == 2
    assert "is in use" in said
    assert workers_of(tmp_path) == []
