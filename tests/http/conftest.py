from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from edged.store import Store
from tests.worker.daemon.rig import install

ALIASES = '[models.tiny]\n[aliases]\n"gpt-4o-mini" = "tiny"\n'
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {}, "slow": {"step_ms": 20, "end_chance": 0}, "brittle": {"crash_at_token": 5, "end_chance": 0},
    "wordy": {"context": 65536, "end_chance": 0}, "late": {"load_s": 1.0}, "small": {"context": 64},
    "sluggish": {"token_ms": 2, "end_chance": 0},
}


@dataclass
class Daemon:
    port: int
    socket: str
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=30)

    def status(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/edged/v1/models/{model}").json()
        return found


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons with settings; they end, and leave nothing running, when the tests do."""
    running: list[subprocess.Popen[str]] = []

    def make(**settings: Any) -> Daemon:
        home = tmp_path_factory.mktemp("home")
        store = Store(home)
        for name, knobs in MODELS.items():
            install(store, name, **knobs)
        (home / "models.toml").write_text(ALIASES)
        arguments = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        with (home / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.http.served", str(home), *arguments], cwd=Path(__file__).parents[2],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (home / "log").read_text()[-2000:]
        told = json.loads(line)
        return Daemon(told["port"], told["socket"], process.pid)

    yield make
    left: list[psutil.Process] = []
    for process in running:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.communicate()
            left += psutil.wait_procs(children, timeout=2)[1]
    for child in left:
        child.kill()
    assert not left, "workers outlived their daemon"


@pytest.fixture(scope="session")
def daemon(start: Callable[..., Daemon]) -> Daemon:
    return start()
