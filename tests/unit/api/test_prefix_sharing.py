"""Whose KV a prompt may meet: everybody's, or that of its own key, whatever wire it came over (PROMISES T17)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.asgi import HOST, ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

JSON_TYPE = (b"content-type", b"application/json")
HELLO = [{"role": "user", "content": "Hello"}]
WIRES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HELLO}),
    ("/v1/completions", {"prompt": "Hello"}),
    ("/v1/responses", {"input": "Hello"}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 5}),
    ("/v1/messages/count_tokens", {"messages": HELLO}),
    ("/api/chat", {"messages": HELLO}),
    ("/api/generate", {"prompt": "Hello"}),
]


@pytest.mark.parametrize(("path", "body"), WIRES)
async def test_each_key_has_a_scope_of_its_own_where_that_is_set(path: str, body: dict[str, Any]) -> None:
    router = FakeRouter(words("a"))
    app = app_with(router, api_keys=["one", "two"], prefix_sharing="key")
    for key in (b"one", b"two", b"one"):
        headers = (JSON_TYPE, HOST, (b"authorization", b"Bearer " + key))
        await ask(app, path, {"model": "tiny", **body}, headers=headers)
    first, second, again = (request.cache_scope for request in router.requests)
    assert first == again != second
    assert "one" not in first
    assert first


@pytest.mark.parametrize(("path", "body"), WIRES)
async def test_by_default_all_share(path: str, body: dict[str, Any]) -> None:
    router = FakeRouter(words("a"))
    await ask(app_with(router, api_keys=["one"]), path, {"model": "tiny", **body},
              headers=(JSON_TYPE, HOST, (b"authorization", b"Bearer one")))
    assert [request.cache_scope for request in router.requests] == [""]
