"""/v1/messages and /v1/messages/count_tokens: what a request means, and errors in Anthropic's words."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
from anthropic.types.beta import message_create_params as beta_create_params

from edged.api.anthropic.routes import COUNTED, FIELDS
from edged.errors import (
    ContextLengthExceeded,
    DeviceUnavailable,
    EdgedError,
    Internal,
    QueueFull,
    ShuttingDown,
    UnsupportedParameter,
    WorkerDied,
)
from edged.types import (
    ChatPrompt,
    Delta,
    Finished,
    GenerateRequest,
    JsonSchema,
    Reasoning,
    Rendered,
    Started,
    ToolFunction,
    ToolUse,
    Usage,
)
from tests.unit.api.asgi import HOST, Client, ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO: dict[str, Any] = {"model": "tiny", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
WEATHER: dict[str, Any] = {"name": "weather", "description": "of a town", "input_schema": {
    "type": "object", "properties": {"at": {"type": "string"}}}}
FUNCTION = ToolFunction(name="weather", description="of a town",
                        parameters='{"type":"object","properties":{"at":{"type":"string"}}}')
APP = app_with(FakeRouter(words("a")))


async def asked(**more: Any) -> GenerateRequest:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), MESSAGES, HELLO | more)
    assert reply.status == 200, reply.text
    return router.requests[0]


def named_events(reply: Client) -> list[tuple[str, Any]]:
    found = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_the_request_reaches_the_router_as_it_was_said() -> None:
    request = await asked(
        system=[{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}], temperature=0, top_p=0.5, top_k=3,
        stop_sequences=["END", "STOP"], seed=4, chat_template_kwargs={"mood": "good"})
    assert request.prompt == ChatPrompt(
        messages=[{"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "hi"}],
        template_kwargs={"mood": "good"})
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.0, 0.5, 3, 4)
    assert (request.max_tokens, request.stop, request.n, request.client) == (50, ("END", "STOP"), 1, "127.0.0.1")
    assert (request.constraint, request.tools, request.reasoning) == (None, None, None)


async def test_an_answer_goes_on_from_the_beginning_that_the_assistant_has() -> None:
    prompt = (await asked(messages=[*HELLO["messages"], {"role": "assistant", "content": "The answer is "}])).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continued
    assert prompt.messages[-1] == {"role": "assistant", "content": "The answer is "}


@pytest.mark.parametrize("more", [
    {"thinking": {"type": "enabled", "budget_tokens": 20}},
    {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
])
async def test_what_must_stand_at_the_beginning_of_an_answer_cannot_go_on_from_one(more: dict[str, Any]) -> None:
    body = HELLO | more | {"messages": [*HELLO["messages"], {"role": "assistant", "content": "{"}]}
    reply = await ask(APP, MESSAGES, body)
    assert (reply.status, reply.error["details"]["param"]) == (400, "messages")


@pytest.mark.parametrize(("said", "expected"), [
    ({}, ToolUse(functions=[FUNCTION])),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
     ToolUse(functions=[FUNCTION], parallel=False)),
    ({"tool_choice": {"type": "any"}}, ToolUse(functions=[FUNCTION], choice="required")),
    ({"tool_choice": {"type": "tool", "name": "weather"}},
     ToolUse(functions=[FUNCTION], choice="required", allowed=("weather",))),
    ({"tool_choice": {"type": "none"}}, ToolUse(functions=[FUNCTION], choice="none")),
])
async def test_tools_and_their_choice(said: dict[str, Any], expected: ToolUse) -> None:
    assert (await asked(tools=[WEATHER], **said)).tools == expected


async def test_a_strict_tool_is_strict_and_its_examples_are_in_its_schema() -> None:
    tool = WEATHER | {"type": "custom", "strict": True, "input_examples": [{"at": "Oslo"}]}
    use = (await asked(tools=[tool])).tools
    assert use is not None
    assert use.functions[0].strict
    assert json.loads(use.functions[0].parameters or "")["examples"] == [{"at": "Oslo"}]


CLOCK = {"name": "clock", "input_schema": {"type": "object"}, "defer_loading": True}
FOUND: list[dict[str, Any]] = [
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [
        {"type": "tool_reference", "tool_name": "clock"}]}]},
]


def change(kind: str, name: str) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": kind, "tool": {"type": "tool_reference", "name": name}}]}


@pytest.mark.parametrize(("more", "names"), [
    ([], ["weather"]), (FOUND, ["weather", "clock"]), ([change("tool_addition", "clock")], ["weather", "clock"]),
    ([*FOUND, change("tool_removal", "clock"), change("tool_removal", "weather")], []),
])
async def test_a_tool_is_offered_from_where_the_messages_offer_it(more: list[Any], names: list[str]) -> None:
    request = await asked(tools=[WEATHER, CLOCK], messages=[*HELLO["messages"], *more])
    assert [function.name for function in (request.tools.functions if request.tools else [])] == names
    assert isinstance(request.prompt, ChatPrompt)
    assert all(message["role"] != "system" for message in request.prompt.messages)


@pytest.mark.parametrize(("said", "expected"), [
    ({"thinking": {"type": "enabled", "budget_tokens": 40}}, Reasoning(budget=40)),
    ({"thinking": {"type": "enabled", "budget_tokens": 40}, "output_config": {"effort": "low"}},
     Reasoning(effort="low", budget=40)),
    ({"thinking": {"type": "disabled"}}, Reasoning(effort="none")),
    ({"thinking": {"type": "adaptive", "display": "summarized"}}, None),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
     Reasoning(effort="high", optional=True)),
    ({"output_config": {"effort": "low"}}, Reasoning(effort="low", optional=True)),
])
async def test_thinking_and_effort(said: dict[str, Any], expected: Reasoning | None) -> None:
    assert (await asked(**said)).reasoning == expected


@pytest.mark.parametrize(("where", "field"), [
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "b": 1, "a": 2}}}},
     "output_config.format.schema"),
    ({"output_format": {"type": "json_schema", "schema": {"type": "object", "b": 1, "a": 2}}}, "output_format.schema"),
])
async def test_a_schema_for_the_answer_keeps_its_order(where: dict[str, Any], field: str) -> None:
    request = await asked(**where)
    assert (request.constraint, request.constraint_field) == (JsonSchema('{"type":"object","b":1,"a":2}'), field)


@pytest.mark.parametrize(("said", "param"), [
    ({"max_tokens": None}, "max_tokens"), ({"messages": None}, "messages"), ({"model": None}, "model"),
    ({"max_tokens": -1}, "max_tokens"), ({"temperature": 1.1}, "temperature"), ({"stop_sequences": "END"},
    "stop_sequences"), ({"system": [{"type": "image"}]}, "system[0]"), ({"system": 7}, "system"),
    ({"colour": 1}, "colour"), ({"n": 2}, "n"), ({"logprobs": True}, "logprobs"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"), ({"tools": [WEATHER | {"name": "a b"}]}, "tools[0].name"),
    ({"tools": [{"name": "weather"}]}, "tools[0].input_schema"),
    ({"tools": [WEATHER | {"input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
    ({"messages": [{"role": "system", "content": [
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "clock"}}]}, *HELLO["messages"]]},
     "messages[0].content[0].tool.name"),
    ({"messages": [{"role": "system", "content": [
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": WEATHER}}]}, *HELLO["messages"]]},
     "messages[0].content[0].tool.type"),
    ({"tools": [WEATHER | {"allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "clock"}, "tools": [WEATHER]}, "tool_choice.name"),
    ({"tool_choice": {"type": "tool"}, "tools": [WEATHER]}, "tool_choice.name"),
    ({"tool_choice": {"type": "auto", "name": "weather"}, "tools": [WEATHER]}, "tool_choice.name"),
    ({"tool_choice": "auto"}, "tool_choice"), ({"tool_choice": {"type": "function"}}, "tool_choice.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 50}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"), ({"thinking": {"type": "on"}}, "thinking.type"),
    ({"thinking": True}, "thinking"), ({"output_config": {"effort": "max"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
    ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {}}}, "output_format": {
        "type": "json_schema", "schema": {}}}, "output_format"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0]"),
    ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, "context_management.edits[0]"),
    ({"container": "c"}, "container"), ({"mcp_servers": [{}]}, "mcp_servers"), ({"speed": "fast"}, "speed"),
    ({"inference_geo": "us"}, "inference_geo"), ({"fallbacks": [{"model": "x"}]}, "fallbacks"),
    ({"thread": {"type": "create"}}, "thread"), ({"compaction": {}}, "compaction"),
])
async def test_what_cannot_be_honoured_is_refused_by_its_name(said: dict[str, Any], param: str) -> None:
    reply = await ask(APP, MESSAGES, HELLO | said)
    assert reply.status == 400
    body = reply.json
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["details"]["param"] == param
    assert f"`{param}`" in body["error"]["message"] or param in ("n", "logprobs", "colour")
    assert body["request_id"] == reply.answer_headers["request-id"] == reply.answer_headers["x-request-id"]


async def test_what_cannot_change_the_answer_is_told_as_ignored() -> None:
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    body = HELLO | {
        "metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"},
        "system": [marked], "messages": [{"role": "user", "content": [marked, marked]}], "speed": "standard",
        "tools": [WEATHER | {"cache_control": {"type": "ephemeral"}, "eager_input_streaming": True}],
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    reply = await ask(APP, MESSAGES, body, headers=(
        HOST, (b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"),
        (b"anthropic-beta", b"some-2025-01-01")))
    assert reply.status == 200
    assert sorted(reply.answer_headers["edged-ignored"].split(", ")) == [
        "anthropic-beta", "cache_control", "context_management.edits", "metadata", "service_tier",
        "tools[0].eager_input_streaming"]


async def test_an_effort_beside_thinking_that_is_off_is_told_as_ignored() -> None:
    body = HELLO | {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}
    assert (await ask(APP, MESSAGES, body)).answer_headers["edged-ignored"] == "output_config.effort"


#: Sent as headers by the official client.
_HEADERS = {"betas"}


@pytest.mark.parametrize(("params", "table"), [
    (message_create_params.MessageCreateParamsStreaming, FIELDS),
    (beta_create_params.MessageCreateParamsStreaming, FIELDS),
    (message_count_tokens_params.MessageCountTokensParams, COUNTED),
    (beta_count_tokens_params.MessageCountTokensParams, COUNTED),
])
def test_every_field_of_the_official_client_is_known(params: Any, table: dict[str, Any]) -> None:
    assert get_type_hints(params).keys() - _HEADERS - table.keys() == set()


async def test_a_stream_is_named_events_from_message_start_to_message_stop() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), MESSAGES, HELLO | {"stream": True})
    assert reply.status == 200
    assert reply.answer_headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"
    events = named_events(reply)
    assert [name for name, _ in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop"]
    assert all(name == data["type"] for name, data in events)
    assert events[0][1]["message"]["id"] == f"msg_{reply.answer_headers['request-id']}"


async def test_a_long_load_is_pings_and_then_the_stream() -> None:
    router = FakeRouter(words("a"))
    router.load_s = 0.06
    events = named_events(await ask(app_with(router, heartbeat_s=0.02), MESSAGES, HELLO | {"stream": True}))
    assert events[0] == ("ping", {"type": "ping"})
    assert next(name for name, _ in events if name != "ping") == "message_start"


async def test_an_error_in_mid_stream_is_an_error_event_and_no_message_stop() -> None:
    def script(request: Any) -> list[Any]:
        return [Started(request.id, 1, 0, 0.0), Delta(request.id, 0, "a"), WorkerDied("The worker died.")]

    reply = await ask(app_with(FakeRouter(script)), MESSAGES, HELLO | {"stream": True})
    name, data = named_events(reply)[-1]
    assert name == "error"
    assert data["error"] == {"type": "api_error", "message": "The worker died.", "details": {
        "error_code": "worker_died"}}
    assert data["request_id"] == reply.answer_headers["request-id"]


@pytest.mark.parametrize(("error", "status", "kind"), [
    (QueueFull("Full.", retry_after_s=2), 429, "rate_limit_error"), (Internal("Broken."), 500, "api_error"),
    (ShuttingDown("Bye.", retry_after_s=1), 503, "overloaded_error"), (DeviceUnavailable("None."), 503, "api_error"),
    (WorkerDied("Dead."), 502, "api_error"),
])
async def test_errors_have_anthropics_types_and_the_headers_of_retries(
    error: EdgedError, status: int, kind: str
) -> None:
    router = FakeRouter(words("a"))
    router.refuse = error
    reply = await ask(app_with(router), MESSAGES, HELLO)
    assert (reply.status, reply.error["type"]) == (status, kind)
    assert reply.answer_headers.get("retry-after") == (f"{error.retry_after_s:g}" if error.retry_after_s else None)
    assert reply.answer_headers.get("x-should-retry") == (None if error.retry else "false")


async def test_a_prompt_that_is_too_long_is_said_in_the_words_that_programs_wait_for() -> None:
    router = FakeRouter(words("a"))
    router.refuse = ContextLengthExceeded("This model's context is 64 tokens.", param="messages")
    reply = await ask(app_with(router), MESSAGES, HELLO)
    assert reply.error["message"] == "prompt is too long: This model's context is 64 tokens."


@pytest.mark.parametrize(("message", "param", "expected"), [
    ("It does not think; leave `reasoning_budget` out.", "reasoning_budget", "thinking.budget_tokens"),
    ("It does not think; leave `reasoning_effort` out.", "reasoning_effort", "output_config.effort"),
    ("`tools[3].function.parameters` is too deep.", "tools[3].function.parameters", "tools[3].input_schema"),
])
async def test_what_the_worker_refuses_is_named_as_it_is_named_here(message: str, param: str, expected: str) -> None:
    router = FakeRouter(words("a"))
    router.refuse = UnsupportedParameter(message, param=param)
    error = (await ask(app_with(router), MESSAGES, HELLO)).error
    assert (error["details"]["param"], error["message"]) == (expected, message.replace(param, expected))


async def test_an_unknown_model_is_not_found() -> None:
    reply = await ask(APP, MESSAGES, HELLO | {"model": "claude-3-opus"})
    assert (reply.status, reply.error["type"]) == (404, "not_found_error")


JSON = (b"content-type", b"application/json")


@pytest.mark.parametrize(("path", "headers", "body", "status", "kind"), [
    (MESSAGES, (HOST, JSON), HELLO, 401, "authentication_error"),
    (MESSAGES, (HOST, JSON, (b"x-api-key", b"wrong")), HELLO, 401, "authentication_error"),
    (MESSAGES, ((b"host", b"evil.example"), JSON), HELLO, 403, "permission_error"),
    (MESSAGES, (HOST, (b"content-type", b"text/plain"), (b"x-api-key", b"k1")), HELLO, 415, "invalid_request_error"),
    (MESSAGES, (HOST, JSON, (b"x-api-key", b"k1")), b"x" * 2000, 413, "request_too_large"),
    (MESSAGES, (HOST, JSON, (b"x-api-key", b"k1")), b"{", 400, "invalid_request_error"),
    (MESSAGES + "/batches", (HOST, JSON, (b"x-api-key", b"k1")), HELLO, 404, "not_found_error"),
])
async def test_what_never_reaches_the_route_is_refused_in_anthropics_shape_too(
    path: str, headers: Any, body: Any, status: int, kind: str
) -> None:
    reply = await ask(app_with(FakeRouter(words("a")), api_keys=["k1"], max_body_bytes=1000), path, body,
                      headers=headers)
    assert (reply.status, reply.json["type"], reply.error["type"]) == (status, "error", kind)
    assert reply.json["request_id"] == reply.answer_headers["request-id"]


async def test_x_api_key_lets_in() -> None:
    made = app_with(FakeRouter(words("a")), api_keys=["k1"])
    assert (await ask(made, MESSAGES, HELLO, headers=(HOST, JSON, (b"x-api-key", b"k1")))).status == 200


async def test_tokens_are_counted_of_the_same_prompt_without_an_answer() -> None:
    def script(request: GenerateRequest) -> list[Any]:
        return [Rendered(request.id, [1, 2, 3], "hi", [b"a"] * 3), Finished(request.id, Usage(3, 0))]

    router = FakeRouter(script)
    body = {name: value for name, value in HELLO.items() if name != "max_tokens"} | {
        "system": "be brief", "tools": [WEATHER], "thinking": {"type": "enabled", "budget_tokens": 2048}}
    reply = await ask(app_with(router), COUNT, body)
    assert (reply.status, reply.json) == (200, {"input_tokens": 3})
    counted = router.requests[0]
    assert counted.prompt_only
    router.script = words("a")
    await ask(app_with(router), MESSAGES, body | {"max_tokens": 4000})
    answered = router.requests[1]
    assert (counted.prompt, counted.tools, counted.reasoning) == (answered.prompt, answered.tools, answered.reasoning)


async def test_what_only_an_answer_has_is_no_field_of_a_count() -> None:
    reply = await ask(APP, COUNT, HELLO)
    assert (reply.status, reply.error["details"]["param"]) == (400, "max_tokens")
