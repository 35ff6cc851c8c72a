"""T13: the hub's token is sent to the hub, and found nowhere else: no worker, log, metric, answer or file has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon
from tests.hub import Hub
from tests.models import contents, gguf_bytes

pytestmark = pytest.mark.http

CANARY = "hf_canary_0123456789abcdef"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/m", "m-Q4_0.gguf", gguf_bytes(7, 100_000))
        running.faults.token = CANARY
        yield running


@pytest.mark.parametrize("way", ["environment", "file"])
def test_the_hubs_token_is_nowhere_but_in_requests_to_the_hub(hub: Hub, tmp_path: Path, way: str) -> None:
    config = tmp_path / "edged.toml"
    config.write_text(f'hf_token = "{CANARY}"\n' if way == "file" else "")
    config.chmod(0o600)
    daemon = Daemon(tmp_path / "box", hf_endpoint=hub.url, config=config, log_level="debug")
    daemon.start(**({"HF_TOKEN": CANARY} if way == "environment" else {}))
    with daemon, httpx.Client(base_url=daemon.base_url, timeout=60) as client:
        answers = [
            client.post("/edged/v1/pull", json={"model": "org/m"}),
            client.post("/edged/v1/pull", json={"model": "org/m", "stream": True}),
            client.post("/edged/v1/pull", json={"model": "org/nobody"}),
        ]
        assert answers[0].json()["state"] == "done"
        hub.faults.location = "gopher://elsewhere/"
        hub.add("org/astray", "m-Q4_0.gguf", gguf_bytes(8, 100_000))
        answers.append(client.post("/edged/v1/pull", json={"model": "org/astray"}))
        assert answers[-1].status_code == 502
        daemon.pull_fake("tiny")
        answers.append(client.post("/v1/completions", json={"model": "tiny", "prompt": "token", "max_tokens": 3}))
        assert answers[-1].status_code == 200
        answers += [client.get(path) for path in ("/edged/v1/config", "/edged/v1/jobs", "/edged/v1/status", "/metrics",
                                                  "/v1/models", "/edged/v1/manifests/org/m")]
        answers.append(client.post("/v1/completions", json={"model": "org/m", "prompt": "x"}))
        (worker,) = daemon.workers()
        assert worker.environ()["HOME"] == str(daemon.folder)
        told = [*(answer.text + str(answer.headers) for answer in answers), daemon.log_file.read_text(),
                *worker.environ().values(), *worker.cmdline(), *daemon.process.args]  # type: ignore[misc]
        assert not [text for text in map(str, told) if CANARY in text]
        assert daemon.edged("config").returncode == 0
        assert CANARY not in daemon.edged("config").stdout
    assert not [path for path, data in contents(daemon.folder).items() if CANARY.encode() in data]
    shown = {(request.server, request.headers.get("authorization")) for request in hub.requests}
    assert shown == {("hub", f"Bearer {CANARY}"), ("content", None)}
