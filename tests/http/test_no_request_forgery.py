"""T12: no field of a request makes the box open a socket, and models come from the hub of the settings alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.daemon import Daemon
from tests.hub import Hub
from tests.models import gguf_bytes

pytestmark = pytest.mark.http

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


class Lure:
    """Listens where nobody should come; `visits` counts who did."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/lure"
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def lure() -> Iterator[Lure]:
    made = Lure()
    yield made
    made.close()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/m", "m-Q4_0.gguf", gguf_bytes(1, 50_000))
        yield running


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("forgery"), hf_endpoint=hub.url) as made:
        made.pull_fake("tiny")
        yield made


def chat(content: Any, **more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


def asks(url: str) -> list[tuple[str, dict[str, Any]]]:
    """Every place of a request where an address could be written."""
    parts = [
        {"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url}, {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": url}}, {"type": "video_url", "video_url": {"url": url}},
        {"type": "file", "file": {"file_id": url, "file_data": url}},
        {"type": "text", "text": "x", "url": url},
    ]
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": url}}}
    return [
        *(chat([{"type": "text", "text": "see"}, part]) for part in parts),
        chat("x", response_format=schema), chat("x", web_search_options={"url": url}), chat("x", adapter=url),
        chat("x", tools=[tool]), chat("x", tools=[{"type": "mcp", "server_url": url}]),
        chat("x", grammar={"type": "lark", "value": f"%import {url}"}),
        *(chat("x", **{field: url}) for field in ("base_url", "api_base", "endpoint", "callback_url", "webhook_url")),
        ("/v1/chat/completions", {"model": url, "messages": HELLO}),
        ("/v1/chat/completions", {"model": f"{url}:Q4_0", "messages": HELLO}),
        ("/v1/completions", {"model": url, "prompt": "x"}),
        ("/edged/v1/load", {"model": url}),
        ("/edged/v1/pull", {"model": url}),
        ("/edged/v1/pull", {"model": url.replace("http://", "") + "/org"}),
        ("/edged/v1/pull", {"model": f"pypi:{url}==1.0#x.gguf"}),
        ("/edged/v1/pull", {"model": f"pypi:x=={url}#x.gguf"}),
        *(("/edged/v1/pull", {"model": "org/m", name: url}) for name in ("endpoint", "hf_endpoint", "source", "token")),
    ]


def test_no_address_in_a_request_is_ever_called(daemon: Daemon, lure: Lure) -> None:
    with httpx.Client(base_url=daemon.base_url, timeout=60) as client:
        for path, body in asks(lure.url):
            answer = client.post(path, json=body)
            assert 400 <= answer.status_code < 500, (body, answer.text)
            assert answer.json()["error"]["type"] == "invalid_request_error"
    assert lure.visits == 0


def test_an_address_in_a_prompt_is_text(daemon: Daemon, lure: Lure) -> None:
    path, body = chat(f"fetch {lure.url} for me", max_tokens=2)
    assert httpx.post(daemon.base_url + path, json=body, timeout=30).status_code == 200
    assert lure.visits == 0


def test_a_forwarded_address_changes_nothing(daemon: Daemon, lure: Lure) -> None:
    """Headers by which a proxy or a client of the hub names another host."""
    host = lure.url.removeprefix("http://").partition("/")[0]
    headers = {"x-forwarded-host": host, "forwarded": f"host={host}", "x-hf-endpoint": lure.url, "referer": lure.url}
    answer = httpx.post(daemon.base_url + "/edged/v1/pull", json={"model": "org/nobody"}, headers=headers, timeout=60)
    assert answer.status_code == 404
    assert lure.visits == 0


@pytest.mark.parametrize("reference", ["org/m", "hf.co/org/m:Q4_0", "https://huggingface.co/org/m:Q4_0"])
def test_whatever_hub_a_reference_names_the_one_of_the_settings_is_asked(
    daemon: Daemon, hub: Hub, reference: str
) -> None:
    asked = len(hub.requests)
    answer = httpx.post(daemon.base_url + "/edged/v1/pull", json={"model": reference}, timeout=60)
    assert (answer.status_code, answer.json()["state"]) == (200, "done"), answer.text
    assert len(hub.requests) > asked


def test_a_hub_that_redirects_to_another_scheme_is_not_followed_from_the_daemon_either(
    daemon: Daemon, hub: Hub, lure: Lure
) -> None:
    hub.add("org/led-astray", "m-Q4_0.gguf", gguf_bytes(2, 50_000))
    hub.faults.location = lure.url.replace("http://", "gopher://")
    try:
        answer = httpx.post(daemon.base_url + "/edged/v1/pull", json={"model": "org/led-astray"}, timeout=60)
    finally:
        hub.faults.location = None
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "source_unavailable")
    assert "not followed" in answer.json()["error"]["message"]
    assert lure.visits == 0
