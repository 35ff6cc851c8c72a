"""The official clients for Anthropic, unchanged, against the real daemon with the fake engine, which says what a
message tells it to after `say: `."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import anthropic
import httpx
import pytest
from pydantic import BaseModel

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

WEATHER: Any = {"name": "weather", "description": "Of a town.", "input_schema": {
    "type": "object", "properties": {"at": {"type": "string"}, "days": {"type": "integer"}}}}


def asking(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 400, "messages": [{"role": "user", "content": content}], **more}


def test_a_message_is_answered_and_streamed_alike(claude: anthropic.Anthropic) -> None:
    said = asking("Say something.", extra_body={"seed": 3}, max_tokens=40)
    plain = claude.messages.create(**said)
    assert plain.content[0].type == "text"
    assert (plain.model, plain.role, plain.type) == ("tiny", "assistant", "message")
    with claude.messages.stream(**said) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == plain.content[0].text
    assert (final.content[0].to_dict(), final.stop_reason) == (plain.content[0].to_dict(), plain.stop_reason)
    assert final.usage.output_tokens == plain.usage.output_tokens > 3
    assert plain._request_id


def test_an_alias_answers(claude: anthropic.Anthropic) -> None:
    assert claude.messages.create(**asking("say: Hello.", model="gpt-4o-mini")).model == "tiny"


def test_models_are_listed_page_by_page_and_told_one_by_one(claude: anthropic.Anthropic) -> None:
    listed = [model.id for model in claude.models.list(limit=2)]
    assert {"tiny", "slow", "gpt-4o-mini"} <= set(listed)
    assert len(listed) == len(set(listed))
    assert claude.models.retrieve("tiny").type == "model"


def test_tokens_of_a_kept_prefix_are_counted_apart(claude: anthropic.Anthropic) -> None:
    system = "You answer questions about a box at the edge of the network. " * 4
    said = asking("say: Yes.", system=system)
    first, second = (claude.messages.create(**said).usage for _ in range(2))
    assert second.cache_read_input_tokens
    assert second.cache_read_input_tokens > second.input_tokens > 0
    totals = [usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in (first, second)]
    counted = claude.messages.count_tokens(model="tiny", system=system, messages=said["messages"])
    assert totals == [counted.input_tokens] * 2


class Light(BaseModel):
    colour: Literal["red", "green"]
    on: bool


def test_a_schema_is_kept_whatever_the_model_would_say_and_parsed_by_the_client(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.parse(**asking("Say something.", output_format=Light))
    assert answer.parsed_output is not None
    assert answer.parsed_output.colour in ("red", "green")
    with claude.messages.stream(**asking("Say something.", output_format=Light)) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Light)


def test_a_schema_that_cannot_be_enforced_is_refused_under_the_name_that_it_has_here(
    claude: anthropic.Anthropic
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "base64"}}, "not": {}}
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(**asking("hi", output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert "output_config.format.schema" in json.dumps(caught.value.body)


def test_a_stop_sequence_ends_the_answer_and_is_told(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(**asking("say: one two END three", stop_sequences=["END", "never"]))
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")
    assert answer.content[0].to_dict()["text"] == "one two "


def test_an_answer_goes_on_from_the_beginning_that_it_is_given(claude: anthropic.Anthropic) -> None:
    said = asking("say: Its name is Oslo.")
    said["messages"].append({"role": "assistant", "content": "Its name is"})
    answer = claude.messages.create(**said)
    assert answer.content[0].to_dict()["text"] == " Oslo."
    assert answer.usage.output_tokens == 6 + 1


def test_max_tokens_end_the_answer_and_none_only_reads_the_prompt(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(**asking("Say something.", model="wordy", max_tokens=5))
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 5)
    read = claude.messages.create(**asking("Say nothing at all.", model="wordy", max_tokens=0))
    assert (read.content, read.stop_reason, read.usage.output_tokens) == ([], "max_tokens", 0)


def test_max_tokens_over_the_context_end_with_it_and_say_so(claude: anthropic.Anthropic) -> None:
    never_end: Any = {"logit_bias": {"257": -100, "259": -100}}
    answer = claude.messages.create(**asking("x", model="small", max_tokens=32_000, extra_body=never_end))
    assert answer.stop_reason == "model_context_window_exceeded"
    used = answer.usage
    assert used.input_tokens + (used.cache_read_input_tokens or 0) + used.output_tokens == 64


def test_tokens_are_counted_with_tools_as_an_answer_counts_them(claude: anthropic.Anthropic) -> None:
    said = asking("say: Yes.", tools=[WEATHER], system="Be brief.")
    used = claude.messages.create(**said).usage
    counted = claude.messages.count_tokens(
        **{name: value for name, value in said.items() if name != "max_tokens"})
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
    bare = claude.messages.count_tokens(model="tiny", messages=said["messages"])
    assert bare.input_tokens < counted.input_tokens


@pytest.mark.parametrize(("more", "expected", "kind"), [
    ({"model": "claude-opus-4"}, anthropic.NotFoundError, "not_found_error"),
    ({"extra_body": {"temperature": 2}}, anthropic.BadRequestError, "invalid_request_error"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError,
     "invalid_request_error"),
    ({"model": "small", "messages": [{"role": "user", "content": "x" * 200}]}, anthropic.BadRequestError,
     "invalid_request_error"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_the_exception_that_the_client_has_for_it(
    claude: anthropic.Anthropic, more: dict[str, Any], expected: type[anthropic.APIStatusError], kind: str, stream: bool
) -> None:
    with pytest.raises(expected) as caught:
        claude.messages.create(**asking("hi", stream=stream) | more)
    assert caught.value.type == kind
    assert caught.value.request_id
    assert caught.value.error_code


def test_a_worker_that_dies_in_mid_stream_is_an_exception_and_not_an_end(claude: anthropic.Anthropic) -> None:
    stream = claude.messages.create(**asking("Go on.", model="brittle", stream=True))
    events: list[Any] = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        events.extend(stream)
    assert [event.type for event in events[:3]] == ["message_start", "content_block_start", "content_block_delta"]
    assert events[-1].type == "content_block_delta"
    assert caught.value.type == "api_error"
    assert caught.value.error_code == "worker_died"


def test_the_client_sends_again_what_died_and_stops_where_that_cannot_help(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        claude.with_options(max_retries=6).messages.create(**asking("Go on, once more.", model="brittle"))
    assert (caught.value.status_code, caught.value.error_code) == (502, "worker_died")
    # The first answer let it: only a request that ran in two deaths is told not to come back.
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert int(caught.value.request.headers["x-stainless-retry-count"]) >= 1


def test_keys_are_taken_from_x_api_key_and_as_bearer(start: Callable[..., Daemon]) -> None:
    guarded = start(api_keys="secret")
    shown: list[dict[str, Any]] = [{"api_key": "secret"}, {"auth_token": "secret"}, {"api_key": "wrong"}]
    answers = []
    for key in shown:
        with anthropic.Anthropic(base_url=guarded.base_url, max_retries=0, **key) as client:
            try:
                answers.append(client.messages.create(**asking("say: In.")).content[0].to_dict()["text"])
            except anthropic.AuthenticationError as error:
                answers.append(error.type)
    assert answers == ["In.", "In.", "authentication_error"]


def test_what_claude_code_sends_is_answered(daemon: Daemon) -> None:
    """Its first request as version 2.1.332 sends it, with shorter texts."""
    cached = {"type": "ephemeral"}
    reply = httpx.post(f"{daemon.base_url}/v1/messages?beta=true", timeout=30, headers={
        "anthropic-version": "2023-06-01", "anthropic-dangerous-direct-browser-access": "true", "x-app": "cli",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,effort-2025-11-24", "x-api-key": "none",
    }, json={
        "model": "tiny", "max_tokens": 32_000, "stream": True, "metadata": {"user_id": '{"device_id":"4f6c"}'},
        "system": [{"type": "text", "text": "You are an agent."},
                   {"type": "text", "text": "You work with the user.", "cache_control": cached}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>none</system-reminder>"},
                                         {"type": "text", "text": "Are you done?"}]},
            {"role": "system", "content": [{"type": "text", "text": "say: Done.", "cache_control": cached}]}],
        "tools": [WEATHER, {"name": "DeferredToolPlaceholder", "description": "Never call it.", "defer_loading": True,
                            "input_schema": {"type": "object", "properties": {}}}],
        "thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    })
    assert reply.status_code == 200, reply.text
    data = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: ")]
    text = "".join(event["delta"].get("text", "") for event in data if event["type"] == "content_block_delta")
    assert text == "Done."
    assert {"metadata", "cache_control", "anthropic-beta", "context_management.edits"} == set(
        reply.headers["edged-ignored"].split(", "))
