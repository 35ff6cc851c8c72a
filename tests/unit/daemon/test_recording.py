"""What is captured of an answer: whatever its events were cut into, the messages that OpenAI's chat would have."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.daemon.recording import Recording
from edged.daemon.status import Served
from edged.store.captured import Answer
from edged.types import (
    CallPiece,
    ChatPrompt,
    ChoiceEnd,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Started,
    ToolFunction,
    ToolUse,
    Usage,
)

pytestmark = pytest.mark.unit

SERVED = Served(name="tiny", version="0123456789ab", engine="fake", device="cpu", digest="d")
ASKED: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]


def recorded(*events: Event, ends: FinishReason = "stop", **said: Any) -> list[Answer]:
    fields: dict[str, Any] = {"id": "r1", "prompt": ChatPrompt(ASKED)} | said
    request = GenerateRequest(**fields)
    recording = Recording(request, 0)
    for event in (Started("r1", 7, 0, 0.0), *events,
                  *(ChoiceEnd("r1", index, ends) for index in range(request.n)), Finished("r1", Usage(7, 99))):
        recording.add(event)
    return list(recording.answers(SERVED))


@given(st.text(min_size=1), st.text(), st.data())
def test_however_text_is_cut_the_line_has_it_whole(text: str, thoughts: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    (answer,) = recorded(Delta("r1", 0, "", reasoning=thoughts), Delta("r1", 0, text[:at], tokens=2),
                         Delta("r1", 0, text[at:], tokens=3))
    line = msgspec.json.encode(answer)
    assert b"\n" not in line
    said = json.loads(line)
    assert said["messages"][:-1] == ASKED
    last = said["messages"][-1]
    assert (last["role"], last["content"], last.get("reasoning_content", "")) == ("assistant", text, thoughts)
    assert (said["prompt_tokens"], said["completion_tokens"], said["finish_reason"]) == (7, 6, "stop")
    assert (said["model"], said["version"], said["adapter"]) == ("tiny", "0123456789ab", None)


def test_calls_and_tools_are_as_openai_writes_them() -> None:
    tools = ToolUse(functions=[ToolFunction(name="lamp", description="A lamp.", parameters='{"type":\n"object"}'),
                               ToolFunction(name="bell", strict=True)])
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": "Light!"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "lamp", "arguments": {"on": True}}},
            {"id": "c1", "type": "function", "function": {"name": "lamp", "arguments": "no JSON"}}]},
        {"role": "tool", "tool_call_id": "c0", "content": "ok"},
    ]
    (answer,) = recorded(
        Delta("r1", 0, "", calls=[CallPiece(0, "", "c2", "lamp"), CallPiece(0, '{"on":')]),
        Delta("r1", 0, "", calls=[CallPiece(0, " false}"), CallPiece(1, "{}", "c3", "bell")]),
        ends="tool_calls", prompt=ChatPrompt(asked), tools=tools, adapter="home")
    said = json.loads(msgspec.json.encode(answer))
    assert [call["function"]["arguments"] for call in said["messages"][1]["tool_calls"]] == ['{"on":true}', "no JSON"]
    assert said["messages"][3] == {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c2", "type": "function", "function": {"name": "lamp", "arguments": '{"on": false}'}},
        {"id": "c3", "type": "function", "function": {"name": "bell", "arguments": "{}"}}]}
    assert said["tools"] == [
        {"type": "function", "function": {"name": "lamp", "description": "A lamp.", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "bell", "strict": True}}]
    assert (said["finish_reason"], said["adapter"]) == ("tool_calls", "home")
    # What the worker was sent is not changed by it.
    assert asked[1]["tool_calls"][0]["function"]["arguments"] == {"on": True}


def test_an_answer_that_goes_on_from_a_beginning_is_one_message() -> None:
    asked = [*ASKED, {"role": "assistant", "content": "Hel"}]
    (answer,) = recorded(Delta("r1", 0, "lo."), prompt=ChatPrompt(asked, continued=True))
    assert answer.messages == [*ASKED, {"role": "assistant", "content": "Hello."}]


def test_of_several_choices_those_that_ended_well_are_lines_of_their_own() -> None:
    request = GenerateRequest(id="r1", prompt=ChatPrompt(ASKED), n=3)
    recording = Recording(request, 0)
    for event in (Delta("r1", 0, "a"), Delta("r1", 2, "c", tokens=4), Delta("r1", 1, "b"), ChoiceEnd("r1", 1, "length"),
                  ChoiceEnd("r1", 0, "stop"), ChoiceEnd("r1", 2, "stop"), Finished("r1", Usage(7, 6))):
        recording.add(event)
    told = [(each.id, each.messages[-1]["content"], each.completion_tokens) for each in recording.answers(SERVED)]
    assert told == [("r1.0", "a", 1), ("r1.2", "c", 4)]


def test_an_answer_that_was_cut_is_none() -> None:
    assert recorded(Delta("r1", 0, "a"), ends="length") == []


@pytest.mark.parametrize(("client", "kept"), [
    ("sha256:0123456789abcdef", "sha256:0123456789abcdef"), ("192.0.2.7", None), ("unix", None), ("", None)])
def test_a_client_is_the_hash_of_its_key_and_never_its_address(client: str, kept: str | None) -> None:
    (answer,) = recorded(Delta("r1", 0, "a"), client=client)
    assert answer.client == kept
