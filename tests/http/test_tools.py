"""Tool calls and thoughts through the whole daemon, by the official Python client; the fake model is told what to say.

How it writes them: edged.engines.fake_script."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

CLIENTS = Path(__file__).parents[1] / "clients"

SCHEMA = {
    "type": "object", "required": ["city"],
    "properties": {"city": {"type": "string", "enum": ["Bonn", "Rome"]}, "days": {"type": "integer"}},
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Bonn", "days": 2}}</tool_call>'


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 200} | more


def streamed(client: openai.OpenAI, said: dict[str, Any]) -> Any:
    """The answer, by the client's own accumulator."""
    with client.chat.completions.stream(**said) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


def calls_of(answer: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments))
            for call in answer.choices[0].message.tool_calls or []]


@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_auto_speaks_and_calls(daemon: Daemon, way: str) -> None:
    client = daemon.openai()
    said = asking(f"say: Let me look.{CALL}{CALL}", tools=[WEATHER, CLOCK])
    answer = client.chat.completions.create(**said) if way == "plain" else streamed(client, said)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert calls_of(answer) == [("weather", {"city": "Bonn", "days": 2})] * 2
    assert len({call.id for call in choice.message.tool_calls or []}) == 2
    assert all(call.id.startswith("call_") for call in choice.message.tool_calls or [])


@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_thoughts_are_apart_and_counted(daemon: Daemon, way: str) -> None:
    client = daemon.openai()
    said = asking(f"say: <think>They want {CALL}, perhaps.</think>\n\nNo call.", tools=[WEATHER])
    if way == "plain":
        answer: Any = client.chat.completions.create(**said)
    else:
        answer = streamed(client, said | {"stream_options": {"include_usage": True}})
    message = answer.choices[0].message
    assert (message.content, message.tool_calls or None) == ("No call.", None)
    assert message.reasoning_content == f"They want {CALL}, perhaps."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert 20 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens


def test_a_call_once_begun_is_held_to_its_function(daemon: Daemon) -> None:
    wrong = CALL.replace("Bonn", "Atlantis")
    answer = daemon.openai().chat.completions.create(**asking(
        f"say: {wrong}", tools=[WEATHER], temperature=0, parallel_tool_calls=False))
    [(name, arguments)] = calls_of(answer)
    assert name == "weather"
    assert arguments["city"] in ("Bonn", "Rome")


@pytest.mark.parametrize(("choice", "name"), [
    ("required", None), ({"type": "function", "function": {"name": "clock"}}, "clock"),
    ({"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]}}, "weather"),
])
def test_a_required_call_comes_whatever_the_model_likes(daemon: Daemon, choice: Any, name: str | None) -> None:
    client = daemon.openai()
    for seed in range(5):
        answer = client.chat.completions.create(**asking(
            "Tell me a story.", tools=[WEATHER, CLOCK], tool_choice=choice, parallel_tool_calls=False, seed=seed))
        [(called, arguments)] = calls_of(answer)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None
        assert called == name or name is None
        assert (called == "clock" and arguments == {}) or arguments["city"] in ("Bonn", "Rome")


def test_with_none_the_text_is_text(daemon: Daemon) -> None:
    answer = daemon.openai().chat.completions.create(
        **asking(f"say: Here: {CALL}", tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=30))
    assert not answer.choices[0].message.tool_calls
    assert "<tool_call>" not in (answer.choices[0].message.content or "")


def test_a_call_that_is_cut_says_so(daemon: Daemon) -> None:
    answer = daemon.openai().chat.completions.create(**asking(f"say: {CALL}", tools=[WEATHER], max_tokens=30))
    [choice] = answer.choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls or choice.message.content


def test_stop_strings_are_of_the_text_only(daemon: Daemon) -> None:
    said = asking(f"say: <think>Stop here? No.</think>Go on.{CALL}", tools=[WEATHER], stop=["here", "Bonn"])
    answer: Any = daemon.openai().chat.completions.create(**said)
    assert answer.choices[0].message.reasoning_content == "Stop here? No."
    assert calls_of(answer) == [("weather", {"city": "Bonn", "days": 2})]
    stopped = daemon.openai().chat.completions.create(**said | {"stop": ["on."]}).choices[0]
    assert (stopped.message.content, stopped.message.tool_calls, stopped.finish_reason) == ("Go ", None, "stop")


def test_log_probabilities_are_of_every_token(daemon: Daemon) -> None:
    answer = daemon.openai().chat.completions.create(
        **asking(f"say: <think>Hm.</think>Yes.{CALL}", tools=[WEATHER], logprobs=True))
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    whole = b"".join(bytes(token.bytes or []) for token in logprobs.content or []).decode()
    assert whole.strip() == f"<think>Hm.</think>Yes.{CALL}"


def test_a_loop_of_calls_and_results_ends_in_an_answer(daemon: Daemon) -> None:
    client = daemon.openai()
    said = asking(f"say: {CALL}", tools=[WEATHER])
    first = client.chat.completions.create(**said).choices[0].message
    assert first.tool_calls
    said["messages"] += [
        first.to_dict(), {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "say: Rain, two days."}]
    assert client.chat.completions.create(**said).choices[0].message.content == "Rain, two days."


@pytest.mark.parametrize("arguments", ['{"city": ', "not JSON", "", "[1]", "null", '"x"', "{" * 200])
def test_calls_that_a_client_replays_wrongly_are_never_a_fault_of_the_server(daemon: Daemon, arguments: str) -> None:
    function = {"name": "weather", "arguments": arguments}
    messages: list[Any] = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "other", "content": "say: Fine."},
    ]
    answer = daemon.openai().chat.completions.create(model="tiny", messages=messages, tools=[WEATHER], max_tokens=20)
    assert answer.choices[0].message.content == "Fine."


def test_effort_and_budget_bound_the_thoughts(daemon: Daemon) -> None:
    client = daemon.openai()
    said = asking("say: <think>One two three four five six seven.</think>Eight.")
    free: Any = client.chat.completions.create(**said, reasoning_effort="low")
    assert (free.choices[0].message.reasoning_content, free.choices[0].message.content) == (
        "One two three four five six seven.", "Eight.")
    bound: Any = client.chat.completions.create(**said, extra_body={"reasoning_budget": 10})
    assert bound.choices[0].message.content == "Eight."
    assert "One two three four five six seven.".startswith(bound.choices[0].message.reasoning_content)
    assert bound.usage.completion_tokens_details.reasoning_tokens < 25
    none: Any = client.chat.completions.create(**asking("say: Eight."), reasoning_effort="none")
    assert none.choices[0].message.content == "Eight."
    assert none.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_thought_and_a_required_call_go_together(daemon: Daemon) -> None:
    answer: Any = daemon.openai().chat.completions.create(**asking(
        f"say: <think>What is <tool_call>?</think>{CALL}", tools=[WEATHER], tool_choice="required",
        reasoning_effort="high"))
    assert answer.choices[0].message.reasoning_content == "What is <tool_call>?"
    assert calls_of(answer) == [("weather", {"city": "Bonn", "days": 2})]


@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_that_cannot_be_enforced_is_refused_of_a_strict_function_only(daemon: Daemon, strict: bool) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string"}}, "unevaluatedProperties": False}
    tool: Any = {"type": "function", "function": {"name": "odd", "parameters": odd, "strict": strict}}
    said = asking('say: <tool_call>{"name": "odd", "arguments": {"a": "x"}}</tool_call>', tools=[tool])
    if strict:
        with pytest.raises(openai.BadRequestError) as caught:
            daemon.openai().chat.completions.create(**said)
        assert caught.value.param == "tools[0].function.parameters"
        assert "unevaluatedProperties" in str(caught.value)
    else:
        assert calls_of(daemon.openai().chat.completions.create(**said)) == [("odd", {"a": "x"})]


def test_the_npm_package_runs_a_loop_of_tools_and_accumulates_a_stream(daemon: Daemon) -> None:
    shown = subprocess.run(
        ["node", "tools.mjs", daemon.base_url + "/v1", "tiny"], cwd=CLIENTS, capture_output=True, text=True, timeout=60,
        check=False)
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert told["asked"] == ["Bonn", "Bonn"]
    assert (told["answer"], told["streamedAnswer"]) == ("It rains.", "It rains.")
    assert told["plain"] == told["streamed"] == {
        "content": "I look.", "calls": [["function", "weather", '{"city": "Bonn"}']], "finish_reason": "tool_calls"}
    assert told["reasoning"] == "Hm."
    assert len(told["pieces"]) > 1
    assert "".join(told["pieces"]) == '{"city": "Bonn"}'


FORM: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}


def test_a_format_holds_the_text_after_the_thought_or_a_call_comes_instead(daemon: Daemon) -> None:
    client = daemon.openai()
    thought = 'say: <think>{"b": 2}?</think>{"a": 1}'
    answer: Any = client.chat.completions.create(**asking(thought, response_format=FORM, reasoning_effort="low"))
    assert (answer.choices[0].message.reasoning_content, answer.choices[0].message.content) == ('{"b": 2}?', '{"a": 1}')
    bound: Any = client.chat.completions.create(
        **asking(thought, response_format=FORM), extra_body={"reasoning_budget": 3})
    assert bound.choices[0].message.content == '{"a": 1}'
    both = {"response_format": FORM, "tools": [WEATHER]}
    assert client.chat.completions.create(**asking('say: {"a": 7}', **both)).choices[0].message.content == '{"a": 7}'
    assert calls_of(client.chat.completions.create(**asking(f"say: {CALL}", **both))) == [
        ("weather", {"city": "Bonn", "days": 2})]
    free = client.chat.completions.create(**asking("Say what you like.", **both, temperature=0))
    assert calls_of(free) or set(json.loads(free.choices[0].message.content or "")) == {"a"}


def test_the_prompt_with_its_tools_can_be_asked_for(daemon: Daemon) -> None:
    told = httpx.post(f"{daemon.base_url}/edged/v1/apply-template", json={
        "model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "tools": [WEATHER],
        "tool_choice": "required", "reasoning_effort": "low"}).json()
    assert '"name": "weather"' in json.dumps(told).replace("\\", "")
    assert told["prompt" if "prompt" in told else "text"].endswith("<think>\n")


def _deep(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize("schema", [
    _deep(12), _deep(400), {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+(b|c)*" * 40 + "{1000}"}}},
    {"type": "object", "properties": {f"p{number}": {"enum": list(range(50))} for number in range(3000)}},
], ids=["nested", "deeply nested", "cyclic", "pattern", "large"])
def test_a_hostile_schema_costs_little_and_never_the_server(daemon: Daemon, schema: Any) -> None:
    for strict in (True, False):
        tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": strict}}
        began_s = time.monotonic()
        reply = httpx.post(f"{daemon.base_url}/v1/chat/completions", timeout=60, json=asking(
            'say: <tool_call>{"name": "f", "arguments": {}}</tool_call>', tools=[tool]))
        assert reply.status_code in (200, 400), reply.text
        if reply.status_code == 400:
            error = reply.json()["error"]
            assert (error["param"] or "tools").startswith("tools")
            assert error["message"]
        assert time.monotonic() - began_s < 30
