"""A client is told that its answer is captured, and its word against that counts."""

from __future__ import annotations

import msgspec
import pytest

from edged.daemon.status import ModelStatus
from tests.unit.api.asgi import HOST, ask
from tests.unit.api.fake_router import FakeGeneration, FakeRouter, app_with, words

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
JSON = (b"content-type", b"application/json")


class Capturing(FakeRouter):
    """foreseen: what the model's status says; every answer has a recording."""

    def __init__(self, *, foreseen: bool) -> None:
        super().__init__(words("a"))
        self.foreseen = foreseen

    def status(self, model: str) -> ModelStatus:
        return msgspec.structs.replace(super().status(model), captured=self.foreseen)

    async def generate(self, model: str, request: object) -> FakeGeneration:
        generation = await super().generate(model, request)  # type: ignore[arg-type]
        generation.recording = object()  # type: ignore[assignment]
        return generation


async def test_an_answer_that_begins_with_a_heartbeat_says_it_too() -> None:
    router = Capturing(foreseen=True)
    router.load_s = 0.06
    reply = await ask(app_with(router, heartbeat_s=0.02), CHAT, HELLO)
    assert reply.pieces[0] == b": still working\n\n"
    assert reply.answer_headers["edged-capture"] == "on"
    assert router.generations[0].recording is not None


async def test_what_a_heartbeat_did_not_say_is_not_captured() -> None:
    router = Capturing(foreseen=False)
    router.load_s = 0.06
    reply = await ask(app_with(router, heartbeat_s=0.02), CHAT, HELLO)
    assert "edged-capture" not in reply.answer_headers
    assert router.generations[0].recording is None


async def test_without_a_heartbeat_the_recording_alone_says_it() -> None:
    router = Capturing(foreseen=False)
    reply = await ask(app_with(router), CHAT, HELLO)
    assert reply.answer_headers["edged-capture"] == "on"
    assert router.generations[0].recording is not None


@pytest.mark.parametrize(("said", "may"), [
    ((), True), ((b"on",), True), ((b"off",), False), ((b"on", b"off"), False), ((b"off", b"on"), False),
    ((b"on", b"on"), True), ((b"",), False)])
async def test_each_header_of_a_request_must_allow_it(said: tuple[bytes, ...], may: bool) -> None:
    router = FakeRouter(words("a"))
    headers = (HOST, JSON, *((b"edged-capture", value) for value in said))
    await ask(app_with(router), CHAT, HELLO, headers=headers)
    assert router.requests[0].capture is may
