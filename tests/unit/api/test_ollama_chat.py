"""POST /api/chat: from Ollama's body to a request, and from events to Ollama's lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import EdgedError, WorkerDied
from edged.types import (
    CallPiece,
    ChatPrompt,
    ChoiceEnd,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    JsonObject,
    JsonSchema,
    Reasoning,
    SamplingParams,
    Started,
    TokenLogprob,
    ToolFunction,
    ToolUse,
    Usage,
)
from tests.unit.api.asgi import Client, ask
from tests.unit.api.fake_router import FakeRouter, Script, app_with, words

pytestmark = pytest.mark.unit

CHAT = "/api/chat"
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PLAIN = HELLO | {"stream": False}
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def lines(reply: Client) -> list[dict[str, Any]]:
    assert reply.text.endswith("\n")
    return [json.loads(line) for line in reply.text.splitlines()]


def played(*deltas: Delta, reason: FinishReason = "stop") -> Script:
    def script(request: GenerateRequest) -> Sequence[Event | EdgedError | float]:
        return [Started(request.id, 3, 1, 0.0), *deltas, ChoiceEnd(request.id, 0, reason),
                Finished(request.id, Usage(3, 7, 1))]

    return script


async def parsed(**said: Any) -> GenerateRequest:
    """The request that the router was given."""
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), CHAT, PLAIN | said)
    assert reply.status == 200, reply.text
    return router.requests[0]


async def refused(**said: Any) -> str:
    reply = await ask(app_with(FakeRouter(words("a"))), CHAT, PLAIN | said)
    assert reply.status == 400, reply.text
    error: str = reply.json["error"]
    return error


async def test_an_answer_streams_in_lines_unless_it_is_told_not_to() -> None:
    app = app_with(FakeRouter(words("Hel", "lo")))
    reply = await ask(app, CHAT, HELLO)
    assert reply.answer_headers["content-type"] == "application/x-ndjson"
    assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"
    *pieces, last = lines(reply)
    assert [piece["message"] for piece in pieces] == [
        {"role": "assistant", "content": "Hel"}, {"role": "assistant", "content": "lo"}]
    assert all(piece["done"] is False and "done_reason" not in piece for piece in pieces)
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 2)
    assert all(isinstance(last[name], int) and last[name] > 0 for name in DURATIONS)
    plain = (await ask(app, CHAT, PLAIN)).json
    assert plain["message"] == {"role": "assistant", "content": "Hello"}
    assert (plain["model"], plain["done"], plain["done_reason"]) == ("tiny", True, "stop")
    assert {*plain} == {*last}


async def test_durations_are_those_that_passed() -> None:
    def script(request: GenerateRequest) -> Sequence[Event | EdgedError | float]:
        return [Started(request.id, 3, 0, 0.0), 0.1, Delta(request.id, 0, "a"), ChoiceEnd(request.id, 0, "stop"),
                Finished(request.id, Usage(3, 2), 0.03, 0.06)]

    router = FakeRouter(script)
    router.load_s = 0.15
    told = (await ask(app_with(router), CHAT, PLAIN)).json
    assert 0.15e9 <= told["load_duration"] < 2e9
    assert (told["prompt_eval_duration"], told["eval_duration"]) == (30_000_000, 60_000_000)
    assert 0.25e9 <= told["total_duration"] < 5e9


async def test_the_model_is_called_as_the_client_called_it() -> None:
    for said in ("tiny", "tiny:latest", "alias", "alias:latest"):
        reply = await ask(app_with(FakeRouter(words("a"))), CHAT, PLAIN | {"model": said})
        assert reply.json["model"] == said
        assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"


async def test_an_unknown_model_is_a_404_with_text() -> None:
    for said in ("none", "none:latest", "none:1b"):
        reply = await ask(app_with(FakeRouter(words("a"))), CHAT, HELLO | {"model": said})
        assert reply.status == 404
        assert reply.answer_headers["content-type"] == "application/json"
        assert "not found" in reply.json["error"]


async def test_thinking_and_calls_stand_apart_from_content_streamed_and_plain() -> None:
    script = played(
        Delta("", 0, "", reasoning="Hm, "), Delta("", 0, "", reasoning="well."), Delta("", 0, "Let me see."),
        Delta("", 0, "", calls=[CallPiece(0, "", "call_a", "look")]),
        Delta("", 0, "", calls=[CallPiece(0, '{"at": '), CallPiece(0, "[1, 2]}")]),
        Delta("", 0, "", calls=[CallPiece(1, "", "call_b", "rest")]), reason="tool_calls",
    )
    app = app_with(FakeRouter(script))
    *pieces, last = lines(await ask(app, CHAT, HELLO))
    assert "".join(piece["message"].get("thinking", "") for piece in pieces) == "Hm, well."
    assert "".join(piece["message"]["content"] for piece in pieces) == "Let me see."
    calls = [
        {"id": "call_a", "function": {"name": "look", "arguments": {"at": [1, 2]}, "index": 0}},
        {"id": "call_b", "function": {"name": "rest", "arguments": {}, "index": 1}},
    ]
    assert [piece["message"]["tool_calls"] for piece in pieces if "tool_calls" in piece["message"]] == [
        [call] for call in calls]
    assert last["done_reason"] == "stop"
    plain = (await ask(app, CHAT, PLAIN)).json["message"]
    assert plain == {"role": "assistant", "content": "Let me see.", "thinking": "Hm, well.", "tool_calls": calls}


@pytest.mark.parametrize("arguments", ['{"at": [1, ', "[1]", '"at"'])
async def test_a_call_that_was_cut_is_told_as_the_text_it_is(arguments: str) -> None:
    script = played(Delta("", 0, "", calls=[CallPiece(0, arguments, "call_a", "look")]), reason="length")
    told = (await ask(app_with(FakeRouter(script)), CHAT, PLAIN)).json
    assert told["message"] == {"role": "assistant", "content": f"look {arguments}"}
    assert told["done_reason"] == "length"


async def test_logprobs_come_with_the_piece_that_shows_them() -> None:
    token = TokenLogprob(7, "a", b"a", -0.5, [(7, "a", b"a", -0.5), (8, "b", b"b", -1.5)])
    app = app_with(FakeRouter(played(Delta("", 0, "a", logprobs=[token]))))
    said = {"logprobs": True, "top_logprobs": 2}
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
        {"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -1.5, "bytes": [98]}]}
    assert [line.get("logprobs") for line in lines(await ask(app, CHAT, HELLO | said))] == [[entry], None]
    assert (await ask(app, CHAT, PLAIN | said)).json["logprobs"] == [entry]
    assert "logprobs" not in (await ask(app, CHAT, PLAIN)).json


async def test_an_error_in_mid_stream_is_the_last_line() -> None:
    def script(request: GenerateRequest) -> Sequence[Event | EdgedError | float]:
        return [Started(request.id, 3, 0, 0.0), Delta(request.id, 0, "a"), WorkerDied("the worker died")]

    *_, last = lines(await ask(app_with(FakeRouter(script)), CHAT, HELLO))
    assert last == {"error": "the worker died"}


async def test_a_heartbeat_is_a_space_before_the_next_line() -> None:
    router = FakeRouter(words("a"))
    router.load_s = 0.2
    reply = await ask(app_with(router, heartbeat_s=0.05), CHAT, HELLO)
    assert reply.text.startswith("  ")
    assert lines(reply)[-1]["done"] is True


async def test_the_body_becomes_one_request() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}
    request = await parsed(
        format=schema, think="low", options={"temperature": 0, "num_predict": 9, "stop": "x", "num_ctx": 99},
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}])
    assert request.constraint == JsonSchema(json.dumps(schema, separators=(",", ":")))
    assert request.reasoning == Reasoning(effort="low")
    assert (request.max_tokens, request.stop, request.context, request.n) == (9, ("x",), 99, 1)
    assert request.sampling == SamplingParams(temperature=0.0)
    assert request.tools == ToolUse(functions=[
        ToolFunction(name="f", description="d", parameters=json.dumps(schema, separators=(",", ":")))])
    assert request.prompt == ChatPrompt([{"role": "user", "content": "hi"}])


async def test_what_clients_always_send_means_nothing() -> None:
    request = await parsed(tools=[], format="", options={}, keep_alive=None, think=None, truncate=False, shift=False)
    assert request == GenerateRequest(id=request.id, prompt=ChatPrompt([{"role": "user", "content": "hi"}]),
                                      to_context_end=True, constraint_field="format", client=request.client)


async def test_a_last_message_of_the_assistant_is_gone_on_with() -> None:
    turns = [*HELLO["messages"], {"role": "assistant", "content": "Once upon"}]
    assert (await parsed(messages=turns, think=False)).prompt == ChatPrompt(turns, continued=True)
    for said in ({"think": True}, {"format": "json"}):
        assert "`messages`" in await refused(messages=turns, **said)


@pytest.mark.parametrize(("said", "effort"), [(True, "medium"), (False, "none"), ("high", "high")])
async def test_think_is_an_effort(said: Any, effort: str) -> None:
    reasoning = (await parsed(think=said)).reasoning
    assert reasoning is not None
    assert reasoning.effort == effort


async def test_format_json_is_an_object() -> None:
    assert (await parsed(format="json")).constraint == JsonObject()


async def test_results_get_the_ids_of_the_calls_that_they_answer() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"x": name}}} | more

    turns = [
        {"role": "system", "content": "be brief", "tool_calls": [], "thinking": ""},
        {"role": "user", "content": "go"},
        {"role": "assistant", "thinking": "hm", "tool_calls": [call("f"), call("g"), call("f", id="mine")]},
        {"role": "tool", "tool_name": "g", "content": "of g"},
        {"role": "tool", "content": "of the first f"},
        {"role": "tool", "tool_call_id": "mine", "content": "of mine"},
        {"role": "tool", "tool_name": "h", "content": "of nobody"},
    ]
    prompt = (await parsed(messages=turns)).prompt
    assert isinstance(prompt, ChatPrompt)
    system, _, assistant, *results = prompt.messages
    assert system == {"role": "system", "content": "be brief"}
    assert assistant["reasoning_content"] == "hm"
    assert assistant["content"] == ""
    calls = assistant["tool_calls"]
    assert [call["id"] for call in calls][2] == "mine"
    assert len({call["id"] for call in calls}) == 3
    assert calls[0] == {"id": calls[0]["id"], "type": "function",
                        "function": {"name": "f", "arguments": {"x": "f"}}}
    assert [result["tool_call_id"] for result in results[:3]] == [calls[1]["id"], calls[0]["id"], "mine"]
    assert [result.get("name") for result in results] == ["g", "f", "f", "h"]
    assert results[3]["tool_call_id"] not in {call["id"] for call in calls}


@pytest.mark.parametrize(("said", "names"), [
    ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "mood"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
     "messages[0].tool_calls[0].function.arguments"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"format": "xml"}, "format"), ({"format": 1}, "format"), ({"think": "much"}, "think"),
    ({"options": {"num_ctx": "4k"}}, "options.num_ctx"), ({"options": []}, "options"), ({"shift": True}, "shift"),
    ({"temperature": 1}, "temperature"), ({"keep_alive": "soon"}, "keep_alive"), ({"top_logprobs": 1}, "top_logprobs"),
])
async def test_what_is_not_served_is_refused_by_name(said: dict[str, Any], names: str) -> None:
    assert f"`{names}`" in await refused(**said)


async def test_inert_fields_are_told_in_a_header() -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), CHAT, PLAIN | {"options": {"num_gpu": 1, "num_thread": 2}})
    assert reply.answer_headers["edged-ignored"] == "options.num_gpu, options.num_thread"


@pytest.mark.parametrize("stream", [True, False])
async def test_no_messages_load_the_model_and_a_keep_alive_of_zero_unloads_it(stream: bool) -> None:
    router = FakeRouter(words("a"))
    app = app_with(router)
    body = {"model": "tiny:latest", "stream": stream}
    loaded = json.loads((await ask(app, CHAT, body | {"messages": [], "keep_alive": "1h30m"})).text)
    assert (loaded["done"], loaded["done_reason"], loaded["message"]["content"]) == (True, "load", "")
    unloaded = json.loads((await ask(app, CHAT, body | {"keep_alive": 0})).text)
    assert unloaded["done_reason"] == "unload"
    assert router.calls == [("load", "tiny", 5400.0, None), ("unload", "tiny", False)]
    assert router.requests == []


async def test_to_unload_takes_an_admin() -> None:
    router = FakeRouter(words("a"))
    headers = ((b"host", b"127.0.0.1:8343"), (b"content-type", b"application/json"), (b"x-api-key", b"k1"))
    app = app_with(router, api_keys=["k1"], admin_keys=["a1"])
    assert (await ask(app, CHAT, {"model": "tiny", "keep_alive": 0}, headers=headers)).status == 403
    assert (await ask(app, CHAT, {"model": "tiny"}, headers=headers)).status == 200
    assert router.calls == [("load", "tiny", None, None)]


async def test_a_prompt_with_a_keep_alive_says_it_to_the_model_that_answers() -> None:
    router = FakeRouter(words("a"))
    await ask(app_with(router), CHAT, PLAIN | {"keep_alive": -1, "model": "tiny:latest"})
    assert router.calls == [("load", "tiny", -1.0, None)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "tiny", "messages": 1}'])
async def test_a_broken_body_is_ollamas_error(body: bytes) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), CHAT, body)
    assert reply.status == 400
    assert isinstance(reply.json["error"], str)


@given(st.text(max_size=40), st.data())
def test_any_cut_of_an_answer_streams_what_it_answers_plainly(text: str, data: st.DataObject) -> None:
    cut = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[begin:end] for begin, end in zip([0, *cut], [*cut, len(text)], strict=True)]
    thought = data.draw(st.integers(0, len(parts)))
    deltas = [Delta("", 0, "", reasoning=part) for part in parts[:thought]]
    app = app_with(FakeRouter(played(*deltas, *(Delta("", 0, part) for part in parts[thought:]))))

    async def both() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return lines(await ask(app, CHAT, HELLO)), (await ask(app, CHAT, PLAIN)).json

    streamed, plain = asyncio.run(both())
    for name in ("content", "thinking"):
        assert "".join(line["message"].get(name, "") for line in streamed) == plain["message"].get(name, "")
