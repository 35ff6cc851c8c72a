"""R9 with whole daemons: twenty clients and one download; two daemons on one store do each other no harm."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon
from tests.http.test_serve_stop import Stream
from tests.hub import Hub
from tests.models import gguf_bytes

pytestmark = pytest.mark.faults

SIZE = 3_000_000
TIMEOUT_S = 60


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/m", "m-Q4_0.gguf", gguf_bytes(6, SIZE))
        yield running


@pytest.fixture
def pair(tmp_path: Path, hub: Hub) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons, one home."""
    home = tmp_path / "home"
    with Daemon(tmp_path / "one", home=home, socket="off", hf_endpoint=hub.url) as one, \
            Daemon(tmp_path / "two", home=home, socket="off", hf_endpoint=hub.url) as two:
        yield one, two


def post(daemon: Daemon, path: str, **body: object) -> httpx.Response:
    return httpx.post(daemon.base_url + path, json=body, timeout=TIMEOUT_S)


def chat(daemon: Daemon, model: str) -> httpx.Response:
    return post(daemon, "/v1/chat/completions", model=model, max_tokens=3, messages=[{"role": "user", "content": "x"}])


def test_twenty_clients_of_two_daemons_pull_one_model_with_one_download(pair: tuple[Daemon, Daemon], hub: Hub) -> None:
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda number: post(pair[number % 2], "/edged/v1/pull", model="org/m"), range(20)))
    assert {(answer.status_code, answer.json()["state"]) for answer in answers} == {(200, "done")}
    assert hub.sent_bytes("gguf") == SIZE
    for daemon in pair:
        assert "org/m" in {model["id"] for model in httpx.get(daemon.base_url + "/v1/models").json()["data"]}
        assert post(daemon, "/edged/v1/verify").json() == {"damage": []}


def test_one_daemon_collects_and_removes_while_the_other_serves(pair: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    one, two = pair
    for name in ("served", "spare"):
        source = tmp_path / "sources" / name
        source.mkdir(parents=True)
        (source / "fake.json").write_text(f'{{"end_chance": 0, "step_ms": 10, "rows": {len(name)}}}')
        assert post(one, "/edged/v1/pull", model=str(source)).status_code == 200
    stream = Stream(one, "served", max_tokens=400)
    refused = httpx.delete(two.base_url + "/edged/v1/models/served")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "conflict")
    assert post(two, "/edged/v1/gc").json()["blobs"] == 0
    assert httpx.delete(two.base_url + "/edged/v1/models/spare").status_code == 200
    assert post(two, "/edged/v1/gc").json()["blobs"] == 1
    stream.end()
    assert (stream.finish, stream.whole, stream.error) == ("length", True, None)
    assert chat(one, "spare").status_code == 404
    assert post(one, "/edged/v1/unload", model="served").json()["state"] == "absent"
    # It is whole on the disk: both can load it.
    assert [chat(daemon, "served").status_code for daemon in pair] == [200, 200]
    assert post(two, "/edged/v1/verify").json() == {"damage": []}
