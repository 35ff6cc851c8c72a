"""Events as Anthropic's messages, read by the official client's own accumulator."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from jiter import from_json
from pydantic import TypeAdapter

from edged.api.anthropic.render import MessageAnswer, MessageStream, Shape
from edged.api.anthropic.thinking import UNSIGNED, unsealed
from edged.api.anthropic.wire import Anthropic
from edged.api.cut_json import whole_part
from edged.errors import WorkerDied
from edged.types import CallPiece, ChoiceEnd, Delta, Event, Finished, FinishReason, Started, Usage
from tests.unit.api.fake_router import SERVED

pytestmark = pytest.mark.unit

WIRE = Anthropic("req-1")
SHAPE = Shape("msg_1", max_tokens=100)
_events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USAGE = Usage(10, 7, 4, 2)


def events(*deltas: Delta, reason: FinishReason = "stop", stop: str | None = None, usage: Usage = USAGE) -> list[Event]:
    return [Started("r", 10, 4, 0.0), *deltas, ChoiceEnd("r", 0, reason, stop), Finished("r", usage)]


def said(text: str = "", *, reasoning: str = "", calls: list[CallPiece] | None = None) -> Delta:
    return Delta("r", 0, text, reasoning=reasoning, calls=calls or [])


def streamed(told: list[Event], shape: Shape = SHAPE) -> list[dict[str, Any]]:
    """As a client reads them, the names of the events being their types."""
    stream = MessageStream(shape, WIRE, SERVED)
    chunks = [chunk for event in told for chunk in stream.chunks(0, event)] + list(stream.closing())
    found = []
    for chunk in chunks:
        name, data = WIRE.frame(chunk).decode().removesuffix("\n\n").split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def answered(told: list[Event], shape: Shape = SHAPE) -> dict[str, Any]:
    answer = MessageAnswer(shape, WIRE, SERVED)
    for event in told:
        answer.add(0, event)
    body: dict[str, Any] = json.loads(msgspec.json.encode(answer.answer()))
    Message.model_validate(body)
    return body


def accumulated(told: list[Event], shape: Shape = SHAPE) -> dict[str, Any]:
    """What `client.messages.stream(…).get_final_message()` would give."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in streamed(told, shape):
        snapshot = accumulate_event(
            event=_events.validate_python(event), current_snapshot=snapshot, json_bufs=buffers)
    found: dict[str, Any] = json.loads(snapshot.to_json())
    return {name: value for name, value in found.items() if name != "stop_details"}


def test_a_text_is_one_block_between_message_start_and_message_stop() -> None:
    kinds = [event["type"] for event in streamed(events(said("Hel"), said("lo")))]
    assert kinds == ["message_start", "content_block_start", "content_block_delta", "content_block_delta",
                     "content_block_stop", "message_delta", "message_stop"]


def test_a_message_has_anthropics_shape_and_counts_cached_tokens_apart() -> None:
    assert answered(events(said("Hel"), said("lo"))) == {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "tiny",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {
            "input_tokens": 6, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 2}, "service_tier": "standard",
        },
    }


def test_thinking_text_and_calls_are_blocks_in_that_order() -> None:
    told = events(
        said(reasoning="Let me "), said("It ", reasoning="see."), said("is."),
        said(calls=[CallPiece(0, "", "c1", "weather"), CallPiece(0, '{"at": ')]),
        said(calls=[CallPiece(0, '"Oslo"}'), CallPiece(1, "{}", "c2", "clock")]), reason="tool_calls")
    assert answered(told)["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": UNSIGNED},
        {"type": "text", "text": "It is."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"at": "Oslo"}},
        {"type": "tool_use", "id": "c2", "name": "clock", "input": {}},
    ]
    assert answered(told)["stop_reason"] == "tool_use"
    starts = [event["content_block"]["type"] for event in streamed(told) if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use", "tool_use"]


def test_thinking_that_is_not_to_be_shown_is_in_the_signature_only() -> None:
    shape = Shape("msg_1", 100, thinking_shown=False)
    told = events(said(reasoning="secretly "), said(reasoning="süß"), said("done"))
    block = answered(told, shape)["content"][0]
    assert block["thinking"] == ""
    assert unsealed(block["signature"], "") == "secretly süß"
    assert not [event for event in streamed(told, shape) if event.get("delta", {}).get("type") == "thinking_delta"]


@pytest.mark.parametrize(("reason", "stop", "tokens", "expected"), [
    ("stop", None, 7, ("end_turn", None)), ("stop", "END", 7, ("stop_sequence", "END")),
    ("length", None, 100, ("max_tokens", None)), ("length", None, 99, ("model_context_window_exceeded", None)),
    ("tool_calls", None, 7, ("tool_use", None)),
])
def test_why_it_ended(reason: FinishReason, stop: str | None, tokens: int, expected: tuple[str, str | None]) -> None:
    body = answered(events(said("a"), reason=reason, stop=stop, usage=Usage(10, tokens)))
    assert (body["stop_reason"], body["stop_sequence"]) == expected


def test_an_answer_of_nothing_has_no_blocks() -> None:
    assert answered(events(reason="length", usage=Usage(10, 0)))["content"] == []
    assert [event["type"] for event in streamed(events())] == ["message_start", "message_delta", "message_stop"]


def test_an_error_in_the_middle_is_an_event_named_error() -> None:
    stream = MessageStream(SHAPE, WIRE, SERVED)
    assert b"".join(map(WIRE.frame, stream.failed(WorkerDied("The worker died.")))) == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"The worker died.",'
        b'"details":{"error_code":"worker_died"}},"request_id":"req-1"}\n\n')


arguments = st.dictionaries(st.text(max_size=3), st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6,
), max_size=3).map(json.dumps)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Thinking, text and calls, cut into deltas anywhere; the last call perhaps not finished."""
    deltas = [said(reasoning=piece) for piece in draw(st.lists(st.text(max_size=4), max_size=4))]
    deltas += [said(piece) for piece in draw(st.lists(st.text(max_size=4), max_size=4))]
    pieces: list[CallPiece] = []
    calls = draw(st.lists(arguments, max_size=3))
    for number, written in enumerate(calls):
        pieces.append(CallPiece(number, "", f"c{number}", f"tool{number}"))
        cut = draw(st.integers(0, len(written)))
        rest = written[cut:]
        if number == len(calls) - 1:
            rest = rest[: draw(st.integers(0, len(rest)))]
        pieces += [CallPiece(number, written[:cut]), CallPiece(number, rest)]
    while pieces:
        taken = draw(st.integers(1, len(pieces)))
        deltas.append(said(calls=pieces[:taken]))
        del pieces[:taken]
    return events(*deltas, reason="tool_calls" if calls else "stop")


@given(answers(), st.booleans())
def test_the_official_accumulator_reads_from_any_stream_what_the_plain_answer_says(
    told: list[Event], shown: bool
) -> None:
    shape = Shape("msg_1", 100, thinking_shown=shown)
    assert accumulated(told, shape) == answered(told, shape)


@given(answers())
def test_blocks_open_grow_and_close_one_after_the_other(told: list[Event]) -> None:
    current: int | None = None
    seen = 0
    for event in streamed(told):
        if event["type"] == "content_block_start":
            assert current is None
            assert event["index"] == seen
            current, seen = seen, seen + 1
        elif event["type"] == "content_block_delta":
            assert event["index"] == current
        elif event["type"] == "content_block_stop":
            assert event["index"] == current
            current = None
    assert current is None


@given(arguments, st.data())
def test_json_cut_anywhere_is_read_as_the_official_client_reads_it(whole: str, data: st.DataObject) -> None:
    assert whole_part(whole) == json.loads(whole)
    cut = whole[: data.draw(st.integers(1, len(whole)))]
    assert whole_part(cut) == from_json(cut.encode(), partial_mode=True)


@pytest.mark.parametrize("text", ["", "[1, 2", "nonsense", "}{", '"a', "]]]]"])
def test_what_is_no_object_is_an_empty_one(text: str) -> None:
    assert whole_part(text) == {}
