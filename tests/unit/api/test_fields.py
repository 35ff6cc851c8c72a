"""Every field: what is served, refused by name, or told to be without effect."""

from __future__ import annotations

from typing import Any

import pytest

from edged.types import SamplingParams
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


APP = app_with(FakeRouter(words("a")))


async def chat(more: dict[str, Any]) -> Any:
    return await ask(APP, CHAT, HELLO | more)


@pytest.mark.parametrize(("field", "value"), [
    ("temperature", -0.1), ("temperature", 2.1), ("temperature", "1"), ("temperature", True), ("top_p", 0),
    ("top_p", 1.01), ("top_k", -1), ("top_k", 1.5), ("min_p", -1), ("typical_p", 2), ("repetition_penalty", 0),
    ("presence_penalty", 3), ("frequency_penalty", -2.5), ("seed", 2**63), ("seed", 1.5), ("seed", "1"), ("n", 0),
    ("n", 17), ("n", 10**9), ("n", True), ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2**63),
    ("max_completion_tokens", 2**63), ("top_logprobs", 21), ("stop", ""), ("stop", ["a"] * 17), ("stop", [1]),
    ("stop", ["a", ""]), ("stop", "x" * 2000), ("stream", "yes"), ("stream_options", []), ("logit_bias", {"x": 1}),
    ("logit_bias", {"1": 101}), ("logit_bias", {"-1": 1}), ("logit_bias", [1]), ("logit_bias", {"9" * 10: 1}),
    ("timeout_s", 0), ("timeout_s", 1e9), ("keep_alive", "soon"), ("keep_alive", []), ("user", 5), ("model", ""),
    ("messages", []), ("messages", "hi"), ("messages", {}), ("metadata", "x"), ("logprobs", 3),
    ("chat_template_kwargs", {"messages": "x"}), ("chat_template_kwargs", {"a": {"b": 1}}),
    ("chat_template_kwargs", {"a-b": 1}), ("logit_bias", {str(token): 1 for token in range(5000)}),
])
async def test_a_value_out_of_bounds_is_refused_under_its_name(field: str, value: Any) -> None:
    reply = await chat({field: value})
    assert (reply.status, reply.error["code"]) == (400, "invalid_value")
    assert reply.error["param"].split(".")[0].split("[")[0] == field
    assert len(reply.error["message"]) < 400


@pytest.mark.parametrize("field", [
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "seed", "stop", "n", "max_tokens", "max_completion_tokens", "stream",
    "stream_options", "logprobs", "top_logprobs", "user", "store", "metadata", "tools", "tool_choice",
    "response_format", "reasoning_effort", "reasoning_budget", "parallel_tool_calls",
    "audio", "timeout_s", "keep_alive", "chat_template_kwargs", "adapter",
])
async def test_null_means_absent(field: str) -> None:
    reply = await chat({field: None})
    assert reply.status == 200
    assert "edged-ignored" not in reply.answer_headers


@pytest.mark.parametrize(("field", "value"), [
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "x"}), ("prediction", {"type": "content", "content": "x"}), ("web_search_options", {}),
    ("functions", [{"name": "f"}]), ("verbosity", "low"), ("function_call", {"name": "f"}),
])
async def test_a_field_not_yet_served_is_refused_by_name(field: str, value: Any) -> None:
    reply = await chat({field: value})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", field)
    assert field in reply.error["message"]


@pytest.mark.parametrize(("field", "value"), [
    ("tools", []), ("tool_choice", "none"), ("tool_choice", "auto"), ("response_format", {"type": "text"}),
    ("parallel_tool_calls", True), ("modalities", ["text"]), ("n", 1), ("logprobs", False), ("functions", []),
])
async def test_values_that_mean_off_are_taken(field: str, value: Any) -> None:
    reply = await chat({field: value})
    assert reply.status == 200
    assert "edged-ignored" not in reply.answer_headers


async def test_what_cannot_change_the_answer_is_told_in_a_header() -> None:
    said = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto", "store": True,
            "metadata": {"a": "b"}}
    for stream in (False, True):
        reply = await chat(said | {"stream": stream})
        assert reply.status == 200
        assert set(reply.answer_headers["edged-ignored"].split(", ")) == set(said)


async def test_an_unknown_field_is_refused_with_a_near_name() -> None:
    reply = await chat({"temprature": 1})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unknown_parameter", "temprature")
    assert "`temperature`" in reply.error["message"]


async def test_unknown_fields_can_be_reported_instead_in_a_safe_header() -> None:
    app = app_with(FakeRouter(words("a")), unknown_fields="report")
    reply = await ask(app, CHAT, HELLO | {"temprature": 1, "a\r\nb: c": 2, "é" * 100: 3})
    assert reply.status == 200
    assert reply.answer_headers["edged-ignored"].startswith("temprature, a??b??c, ??")


@pytest.mark.parametrize("field", ["model", "messages"])
async def test_a_missing_field_is_named(field: str) -> None:
    body = {name: value for name, value in HELLO.items() if name != field}
    reply = await ask(app_with(FakeRouter(words("a"))), CHAT, body)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "missing_required_parameter", field)


@pytest.mark.parametrize(("more", "param"), [
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"), ({"top_logprobs": 2}, "top_logprobs"),
    ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
])
async def test_fields_that_contradict_each_other_are_refused(more: dict[str, Any], param: str) -> None:
    reply = await chat(more)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_both_names_of_the_token_limit_may_agree() -> None:
    assert (await chat({"max_tokens": 5, "max_completion_tokens": 5})).status == 200


@pytest.mark.parametrize(("message", "param", "code"), [
    ({"content": "x"}, "messages[1].role", "missing_required_parameter"),
    ({"role": "robot", "content": "x"}, "messages[1].role", "invalid_value"),
    ({"role": "function", "name": "f", "content": "x"}, "messages[1].role", "unsupported_parameter"),
    ({"role": "user"}, "messages[1].content", "missing_required_parameter"),
    ({"role": "user", "content": 5}, "messages[1].content", "invalid_value"),
    ({"role": "user", "content": []}, "messages[1].content", "invalid_value"),
    ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text", "missing_required_parameter"),
    ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
     "messages[1].content[1]", "unsupported_parameter"),
    ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content[0]", "unsupported_parameter"),
    ({"role": "user", "content": "x", "colour": 1}, "messages[1].colour", "unknown_parameter"),
    ({"role": "user", "content": "x", "tool_call_id": "c"}, "messages[1].tool_call_id", "unknown_parameter"),
    ({"role": "assistant"}, "messages[1].content", "missing_required_parameter"),
    ({"role": "tool", "content": "x"}, "messages[1].tool_call_id", "missing_required_parameter"),
    ({"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}]},
     "messages[1].tool_calls[0].function.arguments", "missing_required_parameter"),
    ("hi", "messages[1]", "invalid_value"),
])
async def test_a_mistake_in_a_message_is_named_with_its_path(message: Any, param: str, code: str) -> None:
    reply = await chat({"messages": [{"role": "user", "content": "hi"}, message]})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


async def test_an_answer_of_the_official_client_can_be_sent_back_as_it_is() -> None:
    said: dict[str, Any] = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None,
            "function_call": None, "tool_calls": None}
    assert (await chat({"messages": [said, {"role": "user", "content": "y"}]})).status == 200


async def test_what_is_not_said_stays_unsaid() -> None:
    router = FakeRouter(words("a"))
    await ask(app_with(router), CHAT, HELLO)
    request = router.requests[0]
    assert request.sampling == SamplingParams()
    assert (request.max_tokens, request.stop, request.n, request.logprobs, request.echo) == (None, (), 1, None, False)


@pytest.mark.parametrize(("said", "seconds"), [
    (0, 0.0), (30, 30.0), (-1, -1.0), ("5m", 300.0), ("1.5h", 5400.0), ("-1", -1.0), ("90", 90.0), ("500ms", 0.5),
])
async def test_keep_alive_in_its_spellings(said: Any, seconds: float) -> None:
    router = FakeRouter(words("a"))
    assert (await ask(app_with(router), CHAT, HELLO | {"keep_alive": said})).status == 200
    assert router.calls[0][2] == seconds
