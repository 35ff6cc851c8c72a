"""tokenize, detokenize and apply-template: what the model reads, told exactly."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from edged.errors import UnsupportedParameter
from edged.types import ChatPrompt, Finished, GenerateRequest, Rendered, TextPrompt, TokenPrompt, Usage
from tests.unit.api.asgi import Client, ask
from tests.unit.api.fake_router import SERVED, FakeRouter, app_with

pytestmark = pytest.mark.unit

MESSAGES = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PIECES = [b"<|user|>", b"h", b"\xe2\x82"]


def reading(request: GenerateRequest) -> list[Any]:
    assert request.prompt_only
    return [
        Rendered(request.id, [7, 104, 200], b"".join(PIECES).decode(errors="replace"), PIECES),
        Finished(request.id, Usage(3, 0)),
    ]


async def post(path: str, body: dict[str, Any], **settings: Any) -> tuple[Client, GenerateRequest]:
    router = FakeRouter(reading)
    reply = await ask(app_with(router, **settings), f"/edged/v1/{path}", body)
    assert reply.status == 200, reply.text
    (request,) = router.requests
    return reply, request


async def test_a_text_is_told_as_tokens() -> None:
    reply, request = await post("tokenize", {"model": "tiny", "text": "hi"})
    assert reply.json == {"model": "tiny", "tokens": [7, 104, 200], "count": 3}
    assert request.prompt == TextPrompt("hi")
    assert reply.answer_headers["edged-model"] == f"tiny@{SERVED.version}"


async def test_a_text_can_be_read_without_what_models_put_before_it() -> None:
    _, request = await post("tokenize", {"model": "tiny", "text": "hi", "add_special_tokens": False})
    assert request.prompt == TextPrompt("hi", bos=False)


async def test_pieces_have_their_exact_bytes() -> None:
    reply, _ = await post("tokenize", {"model": "tiny", "text": "hi", "pieces": True})
    assert reply.json["pieces"] == [
        {"token": 7, "text": "<|user|>", "bytes": list(b"<|user|>")}, {"token": 104, "text": "h", "bytes": [104]},
        {"token": 200, "text": "�", "bytes": [0xE2, 0x82]},
    ]


async def test_a_chat_is_counted_as_it_would_be_sent() -> None:
    reply, request = await post("tokenize", MESSAGES | {"n": 3, "temperature": 0.2})
    assert reply.json["count"] == 3
    assert request.prompt == ChatPrompt(messages=MESSAGES["messages"])  # type: ignore[arg-type]
    assert request.n == 1
    assert reply.answer_headers["edged-ignored"] == "n, temperature"


async def test_the_rendered_prompt_is_told() -> None:
    reply, request = await post("apply-template", MESSAGES | {"chat_template_kwargs": {"thinking": False}})
    assert reply.json == {"model": "tiny", "prompt": "<|user|>h�"}
    assert request.prompt == ChatPrompt(
        messages=MESSAGES["messages"], template_kwargs={"thinking": False})  # type: ignore[arg-type]


async def test_tokens_become_text_again_and_half_characters_are_told() -> None:
    reply, request = await post("detokenize", {"model": "tiny", "tokens": [7, 104, 200]})
    assert request.prompt == TokenPrompt([7, 104, 200])
    told = reply.json
    assert (told["text"], told["exact"]) == ("<|user|>h�", False)
    assert base64.b64decode(told["base64"]) == b"".join(PIECES)


@pytest.mark.parametrize(("path", "body", "param"), [
    ("tokenize", {"model": "tiny"}, "text"), ("tokenize", {"text": "hi"}, "model"),
    ("tokenize", MESSAGES | {"text": "hi"}, "text"), ("tokenize", MESSAGES | {"temperature": 9}, "temperature"),
    ("tokenize", {"model": "tiny", "text": "hi", "temperature": 1}, "temperature"),
    ("tokenize", {"model": "tiny", "text": 5}, "text"), ("tokenize", MESSAGES | {"stream": True}, "stream"),
    ("apply-template", {"model": "tiny", "text": "hi"}, "text"), ("apply-template", {"model": "tiny"}, "messages"),
    ("apply-template", MESSAGES | {"messages": []}, "messages"), ("apply-template", MESSAGES | {"tolls": []}, "tolls"),
    ("detokenize", {"model": "tiny", "tokens": []}, "tokens"), ("detokenize", {"model": "tiny"}, "tokens"),
    ("detokenize", {"model": "tiny", "tokens": [1, -1]}, "tokens[1]"),
    ("detokenize", {"model": "tiny", "tokens": [True]}, "tokens[0]"),
])
async def test_what_is_wrong_is_named(path: str, body: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(reading)), f"/edged/v1/{path}", body)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_what_the_worker_refuses_is_told() -> None:
    router = FakeRouter(lambda request: [UnsupportedParameter("no chat template", param="messages")])
    reply = await ask(app_with(router), "/edged/v1/apply-template", MESSAGES)
    assert (reply.status, reply.error["param"]) == (400, "messages")


async def test_nobody_needs_the_admin_key_and_everybody_a_key() -> None:
    from tests.unit.api.asgi import HOST

    app = app_with(FakeRouter(reading), api_keys=["k1"], admin_keys=["a1"])
    headers = (HOST, (b"content-type", b"application/json"))
    body = {"model": "tiny", "text": "hi"}
    assert (await ask(app, "/edged/v1/tokenize", body, headers=headers)).status == 401
    known = (*headers, (b"authorization", b"Bearer k1"))
    assert (await ask(app, "/edged/v1/tokenize", body, headers=known)).status == 200
