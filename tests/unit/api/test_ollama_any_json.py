"""Whatever JSON is sent to Ollama's routes, it is answered, or refused in text as the caller's mistake."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.types import ChoiceEnd, Embedded, EmbedRequest, Finished, Started, Usage
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with

pytestmark = pytest.mark.unit


def script(request: Any) -> list[Any]:
    if isinstance(request, EmbedRequest):
        told: list[Any] = [Embedded(request.id, [index], b"\0\0\x80?") for index in range(len(request.inputs))]
    else:
        told = [ChoiceEnd(request.id, 0, "stop")]
    return [Started(request.id, 1, 0, 0.0), *told, Finished(request.id, Usage(1, 0))]


APP = app_with(FakeRouter(script))
NAMES = ["role", "content", "images", "thinking", "tool_calls", "tool_name", "function", "name", "arguments", "type",
         "parameters", "temperature", "num_ctx", "stop", "seed", "num_predict"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(
    ["user", "assistant", "tool", "function", "json", "f", "low", "5m"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12)
FIELDS = {
    "/api/chat": ["messages", "tools", "format", "think", "options", "stream", "keep_alive", "logprobs"],
    "/api/generate": ["prompt", "system", "context", "raw", "suffix", "options", "format", "images", "think"],
    "/api/embed": ["input", "truncate", "dimensions", "options", "keep_alive"],
    "/api/embeddings": ["prompt", "options", "keep_alive"],
}


@pytest.mark.parametrize("path", FIELDS)
@given(data=st.data())
def test_no_json_brings_a_5xx(path: str, data: st.DataObject) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    if path != "/api/chat":
        body = {"model": "tiny", "input" if path == "/api/embed" else "prompt": "x"}
    body |= data.draw(st.dictionaries(st.sampled_from(FIELDS[path]), VALUES, max_size=3))
    reply = asyncio.run(ask(APP, path, body))
    assert reply.status in (200, 400)
    if reply.status == 400:
        assert isinstance(reply.json["error"], str)
