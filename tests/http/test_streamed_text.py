"""R13: streamed text is the text of the plain answer, byte for byte, wherever stop strings and tokens cut it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

#: Characters that this model has in two tokens each.
SPLIT = ("🙂", "語")


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=daemon.base_url, timeout=30) as made:
        yield made


def plain(client: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    """(text, finish_reason) of each choice."""
    choices = client.post(path, json=body).raise_for_status().json()["choices"]
    return [(choice["text"] if "text" in choice else choice["message"]["content"], choice["finish_reason"])
            for choice in choices]


def streamed(client: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    texts, reasons = [""] * body.get("n", 1), [""] * body.get("n", 1)
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    for line in lines:
        for choice in httpx.Response(200, text=line).json()["choices"]:
            texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    return list(zip(texts, reasons, strict=True))


def body_for(path: str, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": "say"} if path.endswith("/completions") and "chat" not in path else {
        "messages": [{"role": "user", "content": "say"}]}
    return {"model": "tiny", "max_tokens": 60, **asked, **more}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_streamed_is_plain_also_where_a_character_is_two_tokens(client: httpx.Client, path: str) -> None:
    seen = ""
    for seed in range(15):
        body = body_for(path, seed=seed, n=2)
        whole = plain(client, path, body)
        assert streamed(client, path, body) == whole
        for text, _ in whole:
            # The limit may fall into a character; nothing else may.
            assert "\ufffd" not in text[:-1]
            seen += text
    assert all(character in seen for character in SPLIT)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stop_string_at_every_character_cuts_both_the_same(client: httpx.Client, path: str) -> None:
    free = next(text for seed in range(50)
                for text, _ in plain(client, path, body_for(path, seed=seed)) if SPLIT[0] in text and len(text) > 40)
    seed = next(seed for seed in range(50) if plain(client, path, body_for(path, seed=seed))[0][0] == free)
    for at in range(1, len(free) - 3, 2):
        stop = free[at: at + 3]
        body = body_for(path, seed=seed, stop=[stop, "\ufffe never"])
        whole = plain(client, path, body)
        assert whole == [(free[: free.index(stop)], "stop")]
        assert streamed(client, path, body) == whole
