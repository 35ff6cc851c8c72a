from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import anthropic
import httpx
import pytest
from openai import OpenAI

from edged.store import Store
from tests import daemon as processes
from tests.worker.daemon.rig import install

MODELS_FILE = '[models.tiny]\n[aliases]\n"gpt-4o-mini" = "tiny"\n'
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {}, "slow": {"step_ms": 20, "end_chance": 0}, "brittle": {"crash_at_token": 5, "end_chance": 0},
    "wordy": {"context": 65536, "end_chance": 0}, "late": {"load_s": 1.0}, "small": {"context": 64},
    "sluggish": {"token_ms": 2, "end_chance": 0},
    "vectors": {"task": "embed", "context": 512, "shorter": [4, 8]}, "judge": {"task": "rerank", "context": 512},
}


class Daemon(processes.Daemon):
    """One that has the models above, and official clients for it, which end with it."""

    def openai(self, key: str = "none") -> OpenAI:
        made = OpenAI(base_url=self.base_url + "/v1", api_key=key, max_retries=0, timeout=30)
        self._clients.append(made)
        return made

    def stop(self) -> list[str]:
        while self._clients:
            self._clients.pop().close()
        return super().stop()

    @cached_property
    def _clients(self) -> list[OpenAI]:
        return []

    def status(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.base_url}/edged/v1/models/{model}").json()
        return found

    @property
    def port(self) -> int:
        return int(self.listening["port"])


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons with settings; they end, and leave nothing running, when the tests do."""
    with ExitStack() as running:

        def make(**settings: Any) -> Daemon:
            made = Daemon(tmp_path_factory.mktemp("daemon"), **settings)
            store = Store(made.home)
            for name, knobs in MODELS.items():
                install(store, name, **knobs)
            made.models_file.write_text(MODELS_FILE)
            running.enter_context(made)
            return made

        yield make


@pytest.fixture(scope="session")
def daemon(start: Callable[..., Daemon]) -> Daemon:
    return start()


@pytest.fixture(scope="session")
def claude(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    """Anthropic's official client of the daemon."""
    with anthropic.Anthropic(base_url=daemon.base_url, api_key="none", max_retries=0, timeout=30) as client:
        yield client
