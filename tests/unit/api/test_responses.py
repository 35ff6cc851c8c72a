"""/v1/responses without a socket: fields, answers and streams. Every body and every event is held to the official
package's types."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import (
    Response,
    ResponseIncludable,
    ResponseInputItemParam,
    response_create_params,
)

from edged.api import sse
from edged.api.exchange import Exchange
from edged.api.responses import input as responses_input
from edged.api.responses.events import ResponseBody
from edged.api.responses.items import Item, Reference
from edged.api.responses.request import _INCLUDABLE, FIELDS, parse
from edged.api.responses.stream import ResponseAnswer, ResponseStream
from edged.api.responses.wire import RESPONSES
from edged.errors import ContextLengthExceeded, EdgedError, InvalidRequest, QueueFull, WorkerDied
from edged.types import ChatPrompt, Delta, GenerateRequest, JsonObject, JsonSchema, Started, TokenLogprob
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with, words
from tests.unit.api.responses_rig import (
    CALLING,
    HELLO,
    PATH,
    SPEAKING,
    THINKING,
    made,
    output,
    parsed,
    script,
    typed_events,
    validated,
)

pytestmark = pytest.mark.unit

async def test_a_plain_answer_is_a_response_with_one_message() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), PATH, HELLO)
    response = validated(reply)
    assert response.output_text == "Hello"
    assert response.status == "completed"
    assert response.model == "tiny"
    assert response.id.startswith("resp_")
    assert response.completed_at is not None
    assert reply.json["usage"] == {
        "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5,
    }
    assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"


async def test_a_stream_tells_each_step_in_openais_order_and_ends_without_done() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), PATH, HELLO | {"stream": True})
    assert "[DONE]" not in reply.text
    events = typed_events(reply)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]
    assert [event.delta for event in events if event.type.endswith("text.delta")] == ["Hel", "lo"]
    assert events[0].response.status == "in_progress"
    assert events[-1].response.output_text == "Hello"
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


async def test_thoughts_text_and_calls_are_items_of_their_own() -> None:
    plain, events = await made([*THINKING, *SPEAKING, *CALLING])
    assert [item.type for item in plain.output] == ["reasoning", "message", "function_call", "function_call"]
    thoughts, message, weather, clock = output(plain)
    assert thoughts.content[0].text == "Hm. Well."
    assert message.content[0].text == "Let me see."
    assert (weather.call_id, weather.name, json.loads(weather.arguments)) == (
        "call_1", "weather", {"city": "Oslo"})
    assert (clock.call_id, clock.arguments) == ("call_2", "{}")
    assert plain.usage is not None
    assert plain.usage.output_tokens_details.reasoning_tokens == 2
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[2:8] == ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
                          "reasoning_text.done", "content_part.done"]
    assert kinds.count("function_call_arguments.done") == 2
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1, 2, 3]


@given(st.lists(st.sampled_from([*THINKING, *SPEAKING, *CALLING]), max_size=12), st.sampled_from(["stop", "length"]))
def test_streamed_is_plain_and_its_events_add_up_to_it(deltas: list[Delta], reason: str) -> None:
    def begun() -> ResponseStream:
        return ResponseStream(ResponseBody(id="resp_x", created_at=1, model="tiny"), logprobs=False)

    answer, stream = ResponseAnswer(begun()), begun()
    arriving = script(*deltas, reason=reason)(GenerateRequest(id="r", prompt=ChatPrompt([])))
    told = b""
    for event in arriving:
        assert not isinstance(event, EdgedError | float)
        answer.add(0, event)
        told += sse.framed(RESPONSES, stream.chunks(0, event))
    events = parsed((told + sse.framed(RESPONSES, stream.closing())).decode())
    last = events[-1]
    assert last.type == ("response.completed" if reason == "stop" else "response.incomplete")
    assert last.response == Response.model_validate_json(msgspec.json.encode(answer.answer()))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.model_dump() for item in done] == [item.model_dump() for item in last.response.output]
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert added == [item.id for item in done]
    assert len(set(added)) == len(added)
    deltas_by_item: dict[str, str] = {}
    for event in events:
        if event.type.endswith(".delta"):
            deltas_by_item[event.item_id] = deltas_by_item.get(event.item_id, "") + event.delta
    for item in done:
        whole = item.arguments if item.type == "function_call" else item.content[0].text
        assert deltas_by_item.get(item.id, "") == whole


async def test_a_summary_asked_for_is_all_of_the_thoughts() -> None:
    plain, events = await made(THINKING, reasoning={"effort": "low", "summary": "auto"})
    assert output(plain)[0].summary[0].text == "Hm. Well."
    assert output(plain)[0].content is None
    assert plain.reasoning is not None
    assert (plain.reasoning.effort, plain.reasoning.summary) == ("low", "auto")
    assert [event.type for event in events if "summary" in event.type] == [
        "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]


async def test_an_answer_that_length_cut_is_incomplete_and_says_why() -> None:
    app = app_with(FakeRouter(script(*SPEAKING, reason="length")))
    response = validated(await ask(app, PATH, HELLO | {"max_output_tokens": 2}))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert output(response)[0].status == "incomplete"
    assert response.completed_at is None
    last = typed_events(await ask(app, PATH, HELLO | {"stream": True}))[-1]
    assert last.type == "response.incomplete"


async def test_an_answer_without_a_word_is_an_empty_message() -> None:
    plain, events = await made([])
    assert plain.output_text == ""
    assert len(plain.output) == 1
    assert output(events[-1].response)[0].content[0].text == ""


TOKEN = TokenLogprob(7, "a", b"a", -0.5, [(7, "a", b"a", -0.5), (8, "\ufffd", b"\xf0", float("-inf"))])


@pytest.mark.parametrize("asked", [
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"top_logprobs": 2},
])
async def test_logprobs_are_told_where_asked_for(asked: dict[str, Any]) -> None:
    router = FakeRouter(script(Delta("", 0, "a", logprobs=[TOKEN])))
    app = app_with(router)
    response = validated(await ask(app, PATH, HELLO | asked))
    (logprob,) = output(response)[0].content[0].logprobs
    assert (logprob.token, logprob.bytes, logprob.logprob) == ("a", [97], -0.5)
    assert [top.logprob for top in logprob.top_logprobs] == [-0.5, -9999.0]
    assert router.requests[0].logprobs == 2
    events = typed_events(await ask(app, PATH, HELLO | {"stream": True} | asked))
    assert next(event for event in events if event.type.endswith("text.delta")).logprobs[0].token == "a"


async def test_without_asking_no_logprobs_are_computed() -> None:
    router = FakeRouter(words("a"))
    response = validated(await ask(app_with(router), PATH, HELLO))
    assert router.requests[0].logprobs is None
    assert output(response)[0].content[0].logprobs == []


async def test_fields_reach_the_request_and_come_back_in_the_response() -> None:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), PATH, HELLO | {
        "instructions": "Be short.", "max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 4,
        "stop": "x", "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
        "service_tier": "flex", "reasoning": {"effort": "high"}, "truncation": "disabled", "max_tool_calls": 3,
        "text": {"format": {"type": "text"}},
    })
    response = validated(reply)
    (request,) = router.requests
    assert request.prompt == ChatPrompt([
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}])
    assert (request.max_tokens, request.stop) == (7, ("x",))
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k, request.sampling.seed) == (
        0.5, 0.9, 3, 4)
    assert request.reasoning is not None
    assert request.reasoning.effort == "high"
    assert (response.instructions, response.max_output_tokens, response.temperature, response.top_p) == (
        "Be short.", 7, 0.5, 0.9)
    assert (response.metadata, response.user, response.safety_identifier, response.prompt_cache_key) == (
        {"a": "b"}, "u", "s", "k")
    assert reply.answer_headers["edged-ignored"] == (
        "user, safety_identifier, prompt_cache_key, service_tier, max_tool_calls")


def test_every_field_of_the_official_package_is_known() -> None:
    official = set(get_type_hints(response_create_params.ResponseCreateParamsStreaming))
    assert official - set(FIELDS) == set()
    assert set(get_args(ResponseIncludable)) == set(_INCLUDABLE)
    known = set(responses_input._OTHER_ITEMS) | set(responses_input._Reader._readers)
    kinds = set()
    for item in get_args(ResponseInputItemParam):
        kind = get_type_hints(item, include_extras=False).get("type")
        kinds |= {value for one in (kind, *get_args(kind)) for value in get_args(one) if isinstance(value, str)}
    assert len(kinds) > 20
    assert kinds - known == set()


@pytest.mark.parametrize(("said", "param"), [
    ({"truncation": "auto"}, "truncation"), ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"), ({"background": True, "store": False}, "background"),
    ({"metadata": {"a": 1}}, "metadata"), ({"metadata": {"a" * 65: "x"}}, "metadata"),
    ({"include": ["nothing"]}, "include[0]"), ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"), ({"stream_options": {}}, "stream_options"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"), ({"n": 2}, "n"),
    ({"max_output_tokens": 0}, "max_output_tokens"), ({"input": []}, "input"), ({"input": 5}, "input"),
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
    ({"store": True}, "store"), ({"background": True}, "background"),
])
async def test_what_is_not_served_is_refused_by_name(said: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, HELLO | said)
    assert reply.status == 400
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("below", "own"), [
    ("messages", "input"), ("reasoning_effort", "reasoning.effort"),
    ("tools[1].function.parameters", "tools[1].parameters"), ("temperature", "temperature"),
])
async def test_an_error_before_the_answer_is_a_plain_error_under_the_wires_own_names(below: str, own: str) -> None:
    router = FakeRouter(words("a"))
    router.refuse = ContextLengthExceeded(f"`{below}` is too long", param=below)
    reply = await ask(app_with(router), PATH, HELLO | {"stream": True})
    assert reply.status == 400
    assert reply.json == {"error": {
        "message": f"`{own}` is too long", "type": "invalid_request_error", "param": own,
        "code": "context_length_exceeded"}}


async def test_an_error_in_the_middle_is_a_failed_response() -> None:
    def breaks(request: GenerateRequest) -> Any:
        return [Started(request.id, 3, 0, 0.0), Delta(request.id, 0, "Hel"), WorkerDied("it died")]

    reply = await ask(app_with(FakeRouter(breaks)), PATH, HELLO | {"stream": True})
    last = typed_events(reply)[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert (last.response.error.code, last.response.error.message, last.response.error.type) == (
        "server_error", "it died", "worker_died")
    assert last.response.output_text == "Hel"


async def test_an_error_after_heartbeats_is_an_error_event() -> None:
    router = FakeRouter(words("a"))
    router.load_s, router.refuse = 0.2, QueueFull("full")
    reply = await ask(app_with(router, heartbeat_s=0.05), PATH, HELLO | {"stream": True})
    assert ": still working" in reply.text
    (event,) = typed_events(reply)
    assert (event.type, event.message, event.code) == ("error", "full", "queue_full")
    assert '"error":{"message":"full"' in reply.text


# Formats and tools.


WEATHER = {"type": "function", "name": "weather", "description": "Of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


async def test_functions_reach_the_request_and_come_back_with_their_defaults() -> None:
    router = FakeRouter(script(*CALLING))
    clock = {"type": "function", "name": "clock", "parameters": None, "strict": False}
    response = validated(await ask(app_with(router), PATH, HELLO | {
        "tools": [WEATHER, clock], "tool_choice": "required", "parallel_tool_calls": False}))
    (request,) = router.requests
    assert request.tools is not None
    assert [(one.name, one.strict) for one in request.tools.functions] == [("weather", True), ("clock", False)]
    assert json.loads(request.tools.functions[0].parameters or "") == WEATHER["parameters"]
    assert (request.tools.choice, request.tools.parallel) == ("required", False)
    assert response.tool_choice == "required"
    assert response.parallel_tool_calls is False
    assert [tool.model_dump(exclude_none=True) for tool in response.tools] == [
        WEATHER | {"strict": True}, {"type": "function", "name": "clock", "strict": False}]


@pytest.mark.parametrize(("said", "choice", "allowed"), [
    ("none", "none", ()), ({"type": "function", "name": "weather"}, "required", ("weather",)),
    ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}, "auto",
     ("weather",)),
])
async def test_every_tool_choice_is_understood_and_told_again(said: Any, choice: str, allowed: tuple[str, ...]) -> None:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), PATH, HELLO | {"tools": [WEATHER], "tool_choice": said})
    validated(reply)
    assert reply.json["tool_choice"] == said
    assert router.requests[0].tools is not None
    assert (router.requests[0].tools.choice, router.requests[0].tools.allowed) == (choice, allowed)


SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}


@pytest.mark.parametrize(("form", "constraint", "field"), [
    ({"type": "text"}, None, "response_format"),
    ({"type": "json_object"}, JsonObject(), "text.format"),
    ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True},
     JsonSchema('{"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"string"}}}'), "text.format.schema"),
])
async def test_formats_become_constraints(form: Any, constraint: Any, field: str) -> None:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), PATH, HELLO | {"text": {"format": form}})
    validated(reply)
    assert (router.requests[0].constraint, router.requests[0].constraint_field) == (constraint, field)
    assert reply.json["text"]["format"] == form


@pytest.mark.parametrize(("said", "param"), [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"), ({"tools": [{"type": "mcp"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"), ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].function"),
    ({"tool_choice": "required"}, "tool_choice"), ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_object"}}, "grammar": {"type": "regex", "value": "a"}}, "grammar"),
])
async def test_tools_and_formats_that_are_not_served_are_refused_by_name(said: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, HELLO | said)
    assert reply.status == 400
    assert reply.error["param"] == param


# Input.


@pytest.mark.parametrize(("item", "param"), [
    ({"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}, "input[0].content[0]"),
    ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input[0].content[0]"),
    ({"role": "user", "content": [{"type": "text", "text": "hi"}]}, "input[0].content[0].type"),
    ({"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}, "input[0].content[0].type"),
    ({"role": "user", "content": 5}, "input[0].content"), ({"role": "user"}, "input[0].content"),
    ({"role": "critic", "content": "hi"}, "input[0].role"), ({"content": "hi"}, "input[0].role"),
    ({"type": "web_search_call", "id": "x"}, "input[0]"), ({"type": "nothing"}, "input[0].type"),
    ({"type": 5}, "input[0].type"), ("hi", "input[0]"),
    ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[0].call_id"),
    ({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}, "input[0].arguments"),
    ({"type": "function_call_output", "call_id": "c", "output": {}}, "input[0].output"),
    ({"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}, "input[0].encrypted_content"),
    ({"type": "item_reference"}, "input[0].id"), ({"type": "item_reference", "id": "msg_1"}, "input[0].id"),
    ({"role": "user", "content": "hi", "colour": "red"}, "input[0].colour"),
])
async def test_items_that_cannot_be_read_are_refused_under_their_path(item: Any, param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, {"model": "tiny", "input": [item]})
    assert reply.status == (404 if "msg_1" in str(item) else 400)
    assert reply.error["param"] == param


async def test_what_models_wrote_wrongly_comes_back_to_them_as_it_was() -> None:
    router = FakeRouter(words("a"))
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{oops"}
    assert (await ask(app_with(router), PATH, {"model": "tiny", "input": [call]})).status == 200
    assert router.requests[0].prompt == ChatPrompt([{"role": "assistant", "content": "", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{oops"}}]}])


async def test_a_new_assistant_message_begins_where_the_order_of_an_answer_ends() -> None:
    router = FakeRouter(words("a"))
    said = [{"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"role": "assistant", "content": "three"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]
    assert (await ask(app_with(router), PATH, {"model": "tiny", "input": said})).status == 200
    prompt = router.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert [(one["content"], "tool_calls" in one, one.get("reasoning_content")) for one in prompt.messages] == [
        ("one", False, None), ("two", True, None), ("three", False, None), ("no", False, "hm")]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "role", "content", "text", "id", "call_id", "name", "arguments", "output", "summary"])
        | st.text(max_size=5), inner, max_size=5),
    max_leaves=12)
_ITEM = st.fixed_dictionaries({"type": st.sampled_from([
    "message", "function_call", "function_call_output", "reasoning", "item_reference", "input_text", ""])},
    optional=dict.fromkeys(("role", "content", "id", "call_id", "name", "arguments", "output", "summary"), _JSON))


@given(st.lists(_ITEM | _JSON, max_size=4) | _JSON)
def test_no_input_brings_anything_but_items_or_a_named_refusal(said: Any) -> None:
    param: str | None = "input"
    found: list[Item | Reference] = []
    try:
        found = responses_input.read_input(said, "input", "resp_1", "refuse", [])
    except InvalidRequest as error:
        param = error.param
    assert str(param).startswith("input")
    for item in found:
        if not isinstance(item, Reference):
            assert msgspec.json.decode(msgspec.json.encode(item), type=Item) == item


@given(st.sampled_from(sorted(FIELDS)), _JSON)
def test_no_value_of_any_field_brings_anything_but_a_request_or_a_named_refusal(name: str, value: Any) -> None:
    param: str | None = name
    try:
        asked = parse({"model": "tiny", "input": "hi", name: value}, Exchange("r"), "refuse")
    except InvalidRequest as error:
        param = error.param
    else:
        Response.model_validate_json(msgspec.json.encode(asked.begun))
    assert str(param).startswith((name, "store", "input"))
