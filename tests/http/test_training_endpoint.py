"""The training companion's client against edged itself, with the fake engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.errors import InvalidRequest, ModelNotFound
from tests.answer_runs import do, learned, run_of
from tests.http.conftest import Daemon
from training.chat_wire import Ask
from training.endpoint import Endpoint
from training.examples import Message

pytestmark = pytest.mark.http

TOOL = {"type": "function", "function": {"name": "light", "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}}}


def say(text: str) -> tuple[Message, ...]:
    return (Message("user", f"say: {text}"),)


@pytest.mark.parametrize("stream", [False, True])
def test_edged_answers_with_counts_logprobs_and_calls(daemon: Daemon, stream: bool) -> None:
    with Endpoint(daemon.base_url + "/v1", "tiny") as endpoint:
        reply = endpoint.ask(Ask(messages=say("it is on."), max_tokens=20, logprobs=2, stream=stream))
        assert reply.message == Message("assistant", "it is on.")
        assert reply.finish_reason == "stop"
        assert (reply.served or "").startswith("tiny@")
        assert reply.prompt_tokens
        assert reply.logprobs is not None
        assert "".join(choice.token for choice in reply.logprobs) == "it is on."
        # The token that ends the answer counts, and shows nothing.
        assert reply.completion_tokens == len(reply.logprobs) + 1
        assert all(len(choice.top) == 2 for choice in reply.logprobs)
        assert (reply.first_token_s is not None) == stream
        called = endpoint.ask(Ask(messages=say('<tool_call>{"name": "light", "arguments": {"on": true}}</tool_call>'),
                                  max_tokens=100, tools=(TOOL,), stream=stream))
    assert called.finish_reason == "tool_calls"
    [call] = called.message.tool_calls
    assert call["function"] == {"name": "light", "arguments": '{"on": true}'}
    assert call["id"]


def test_edged_answers_many_and_refuses_one(daemon: Daemon) -> None:
    asks = [(number, Ask(messages=say("x" * 300 if number == 2 else f"number {number}"), max_tokens=12))
            for number in range(6)]
    with Endpoint(daemon.base_url + "/v1", "small") as endpoint:
        replies = dict(endpoint.ask_all(asks))
    refused = replies.pop(2)
    assert isinstance(refused, InvalidRequest)
    assert "64" in str(refused)
    assert {number: reply.message.content for number, reply in replies.items()
            if not isinstance(reply, InvalidRequest)} == {number: f"number {number}" for number in (0, 1, 3, 4, 5)}


def test_a_schema_holds_the_answer_and_an_unknown_model_is_told(daemon: Daemon) -> None:
    schema = {"type": "object", "properties": {"score": {"enum": [1, 2, 3]}}, "required": ["score"],
              "additionalProperties": False}
    with Endpoint(daemon.base_url + "/v1", "tiny") as endpoint:
        reply = endpoint.ask(Ask(messages=say("any"), max_tokens=50, schema=schema))
    assert reply.message.content in ('{"score": 1}', '{"score": 2}', '{"score": 3}')
    with Endpoint(daemon.base_url + "/v1", "nobody") as endpoint, pytest.raises(ModelNotFound, match="nobody"):
        endpoint.ask(Ask(messages=say("any"), max_tokens=5))


def test_edged_is_a_teacher(daemon: Daemon, tmp_path: Path) -> None:
    run = run_of(tmp_path, f'teachers = [{{model = "tiny", endpoint = "{daemon.base_url}/v1", max_tokens = 12}}]\n'
                           "samples = 2\nlogprobs = 3\nfilters = {finished_only = false}")
    value = do(run)
    assert value.answers == 8
    assert value.completion_tokens > 8
    [served] = value.teachers[0].served
    assert served.startswith("tiny@")
    assert {prompt for prompt, _ in learned(run)} == {f"prompt {number}" for number in range(4)}
    assert (run.path("answers") / "raw.jsonl").read_text().count('"top":[[') > 8
