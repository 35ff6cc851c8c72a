"""What the tests of /v1/responses share: scripts of answers, and the official package's types to hold bodies and events
to."""

from __future__ import annotations

from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from edged.types import CallPiece, ChoiceEnd, Delta, Event, Finished, GenerateRequest, Started, Usage
from tests.unit.api.asgi import Client, ask
from tests.unit.api.fake_router import FakeRouter, Script, app_with

PATH = "/v1/responses"
NOBODYS = "resp_" + "0" * 40
HELLO = {"model": "tiny", "input": "hi"}
_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
THINKING = [Delta("", 0, "", reasoning="Hm. "), Delta("", 0, "", reasoning="Well.")]
SPEAKING = [Delta("", 0, "Let me "), Delta("", 0, "see.")]
CALLING = [
    Delta("", 0, "", calls=[CallPiece(0, "", "call_1", "weather")]),
    Delta("", 0, "", calls=[CallPiece(0, '{"city": ')]),
    Delta("", 0, "", calls=[CallPiece(0, '"Oslo"}'), CallPiece(1, "{}", "call_2", "time")]),
]


def script(*deltas: Delta, reason: Any = "stop") -> Script:
    def made(request: GenerateRequest) -> list[Event]:
        return [Started(request.id, 3, 1, 0.0), *deltas, ChoiceEnd(request.id, 0, reason),
                Finished(request.id, Usage(3, 5, 1, 2))]

    return made


def parsed(text: str) -> list[Any]:
    """The events of a stream; every one valid, named as its data says, and numbered."""
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.removeprefix("event: ").split("\ndata: ")
            event = _EVENT.validate_json(data)
            assert event.type == name
            found.append(event)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


def typed_events(reply: Client) -> list[Any]:
    return parsed(reply.text)


def validated(reply: Client) -> Response:
    assert reply.status == 200, reply.text
    return Response.model_validate(reply.json)


def output(response: Response) -> list[Any]:
    """Its items, of kinds that the test knows."""
    return list(response.output)


async def made(deltas: Any, **more: Any) -> tuple[Response, list[Any]]:
    """The same answer, plain and streamed."""
    app = app_with(FakeRouter(script(*deltas)))
    plain = validated(await ask(app, PATH, HELLO | more))
    return plain, typed_events(await ask(app, PATH, HELLO | {"stream": True} | more))
