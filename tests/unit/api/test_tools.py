"""Tools and thoughts on chat's wire: what comes in, and what an answer with calls looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from edged.errors import EdgedError
from edged.types import (
    CallPiece,
    ChoiceEnd,
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Reasoning,
    Started,
    TokenLogprob,
    ToolFunction,
    ToolUse,
    Usage,
)
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, Script, app_with, words

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}, "required": ["z"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock", "strict": True}}
TOOLS = [WEATHER, CLOCK]
FUNCTIONS = [
    ToolFunction(name="weather", description="of a city", parameters=json.dumps(SCHEMA, separators=(",", ":"))),
    ToolFunction(name="clock", strict=True),
]


async def asked(more: dict[str, Any]) -> GenerateRequest:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), CHAT, HELLO | more)
    assert reply.status == 200, reply.json
    [generation] = router.generations
    request: GenerateRequest = generation.request
    return request


@pytest.mark.parametrize(("said", "expected"), [
    ({}, ToolUse(functions=FUNCTIONS)),
    ({"tool_choice": "auto"}, ToolUse(functions=FUNCTIONS)),
    ({"tool_choice": "none"}, ToolUse(functions=FUNCTIONS, choice="none")),
    ({"tool_choice": "required"}, ToolUse(functions=FUNCTIONS, choice="required")),
    ({"parallel_tool_calls": False}, ToolUse(functions=FUNCTIONS, parallel=False)),
    ({"tool_choice": {"type": "function", "function": {"name": "clock"}}},
     ToolUse(functions=FUNCTIONS, choice="required", allowed=("clock",))),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}}},
     ToolUse(functions=FUNCTIONS, choice="auto", allowed=("weather",))),
])
async def test_tools_and_every_form_of_choice_are_understood(said: dict[str, Any], expected: ToolUse) -> None:
    assert (await asked({"tools": TOOLS} | said)).tools == expected


@pytest.mark.parametrize(("said", "expected"), [
    ({"reasoning_effort": "low"}, Reasoning(effort="low")), ({"reasoning_effort": "none"}, Reasoning(effort="none")),
    ({"reasoning_budget": 7}, Reasoning(budget=7)), ({}, None),
])
async def test_reasoning_is_passed_on(said: dict[str, Any], expected: Reasoning | None) -> None:
    assert (await asked(said)).reasoning == expected


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f"} | function}]}


def chosen(value: Any) -> dict[str, Any]:
    return {"tools": TOOLS, "tool_choice": value}


@pytest.mark.parametrize(("said", "param"), [
    ({"tools": {}}, "tools"), ({"tools": [WEATHER] * 129}, "tools"), ({"tools": ["f"]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"), ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    (tool(name="a b"), "tools[0].function.name"), (tool(name="x" * 65), "tools[0].function.name"),
    (tool(parameters=[]), "tools[0].function.parameters"), (tool(strict=1), "tools[0].function.strict"),
    (tool(parameters={"type": "string"}), "tools[0].function.parameters"),
    (tool(parameters={"properties": {"a": {"items": [{"$ref": "http://x/"}]}}}), "tools[0].function.parameters"),
    (tool(parameters={"description": "x" * 200_000}), "tools[0].function.parameters"),
    (tool(returns={}), "tools[0].function.returns"),
    (chosen("any"), "tool_choice"), (chosen({"type": "custom"}), "tool_choice"), (chosen([]), "tool_choice"),
    (chosen({"type": "function"}), "tool_choice.function"),
    (chosen({"type": "function", "function": {"name": "g"}}), "tool_choice.function.name"),
    (chosen({"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}}),
     "tool_choice.allowed_tools.mode"),
    (chosen({"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}}),
     "tool_choice.allowed_tools.tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"), ({"reasoning_effort": "max"}, "reasoning_effort"),
    ({"reasoning_budget": -1}, "reasoning_budget"),
    ({"functions": [{"name": "f"}]}, "functions"), ({"function_call": {"name": "f"}}, "function_call"),
])
async def test_what_is_wrong_with_tools_is_named(said: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), CHAT, HELLO | said)
    assert (reply.status, reply.error["param"]) == (400, param)


def script(deltas: list[dict[str, Any]], reason: Any = "tool_calls") -> Script:
    def made(request: GenerateRequest) -> list[Event | EdgedError | float]:
        events: list[Event | EdgedError | float] = [Started(request.id, 3, 0, 0.0)]
        events += [Delta(request.id, 0, **delta) for delta in deltas]
        return [*events, ChoiceEnd(request.id, 0, reason), Finished(request.id, Usage(3, 9, 0, 4))]

    return made


CALLING: list[dict[str, Any]] = [
    {"text": "", "reasoning": "Hm"}, {"text": "", "reasoning": "."}, {"text": "I look."},
    {"text": "", "calls": [CallPiece(0, "", "call_1", "weather")]}, {"text": "", "calls": [CallPiece(0, '{"z": ')]},
    {"text": "", "calls": [CallPiece(0, '"x"}'), CallPiece(1, "{}", "call_2", "clock")]},
]


async def test_an_answer_with_calls_has_openais_shape() -> None:
    reply = await ask(app_with(FakeRouter(script(CALLING))), CHAT, HELLO | {"tools": TOOLS})
    [choice] = reply.json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant", "content": "I look.", "refusal": None, "reasoning_content": "Hm.", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"z": "x"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    }
    assert reply.json["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


async def test_an_answer_of_calls_alone_has_no_content() -> None:
    reply = await ask(app_with(FakeRouter(script(CALLING[3:]))), CHAT, HELLO | {"tools": TOOLS})
    assert reply.json["choices"][0]["message"]["content"] is None


async def test_a_stream_tells_id_and_name_first_and_then_arguments_in_pieces() -> None:
    reply = await ask(app_with(FakeRouter(script(CALLING))), CHAT, HELLO | {"tools": TOOLS, "stream": True})
    assert [chunk["choices"][0]["delta"] for chunk in reply.events[:-1]] == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "Hm"}, {"reasoning_content": "."}, {"content": "I look."},
        {"tool_calls": [
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"z": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"x"}'}}]},
        {"tool_calls": [
            {"index": 1, "id": "call_2", "type": "function", "function": {"name": "clock", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]


TOKEN = TokenLogprob(1, "x", b"x", -0.5)
pieces = st.one_of(
    st.builds(lambda text: {"text": text}, st.text("ab ", max_size=3)),
    st.builds(lambda text: {"text": "", "reasoning": text}, st.text("ab ", max_size=3)),
    st.builds(lambda text: {"text": text, "logprobs": [TOKEN]}, st.text("ab ", max_size=3)),
    st.builds(lambda text, more: {"text": text, "calls": more, "logprobs": [TOKEN, TOKEN]}, st.text("ab", max_size=2),
              st.lists(st.text('{}":1', max_size=4), min_size=1, max_size=3)),
)


@given(st.lists(pieces, max_size=6))
async def test_the_official_accumulator_makes_the_plain_answer_of_a_stream(made: list[dict[str, Any]]) -> None:
    deltas: list[dict[str, Any]] = []
    count = 0
    for delta in made:
        calls = []
        for number, arguments in enumerate(delta.get("calls", [])):
            first = number == 0
            count += first
            calls.append(CallPiece(count - 1, arguments, f"call_{count}" if first else "", "weather" if first else ""))
        deltas.append(delta | ({"calls": calls} if calls else {}))
    said = HELLO | {"tools": TOOLS, "logprobs": True, "stream": True, "stream_options": {"include_usage": True}}
    app = app_with(FakeRouter(script(deltas, "tool_calls" if count else "stop")))
    streamed = await ask(app, CHAT, said)
    state = ChatCompletionStreamState()
    for chunk in streamed.events[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    whole = state.get_final_completion().to_dict()
    plain = await ask(app, CHAT, {key: value for key, value in said.items() if not key.startswith("stream")})
    expected = ChatCompletion.model_validate(plain.json).to_dict()
    ours: Any = expected["choices"]
    theirs: Any = whole["choices"]
    ours, theirs = ours[0], theirs[0]
    for name in ("content", "reasoning_content", "tool_calls"):
        said_plainly = ours["message"].get(name)
        said_streamed = theirs["message"].get(name)
        if name == "tool_calls":
            said_streamed = [_plain(call) for call in said_streamed or []] or None
        assert (said_streamed or None) == (said_plainly or None)
    assert ((theirs["logprobs"] or {}).get("content") or []) == ours["logprobs"]["content"]
    assert theirs["finish_reason"] == ours["finish_reason"]


def _plain(call: dict[str, Any]) -> dict[str, Any]:
    """Without what the accumulator adds."""
    return {"id": call["id"], "type": call["type"], "function": {
        "name": call["function"]["name"], "arguments": call["function"]["arguments"]}}
