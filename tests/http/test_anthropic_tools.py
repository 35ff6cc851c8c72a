"""Tools and thinking through the official clients for Anthropic: the fake engine says what a message tells it
to after `say: `, in Hermes' notation."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.http.conftest import Daemon
from tests.http.test_anthropic_client import WEATHER, asking

pytestmark = pytest.mark.http

CLIENTS = Path(__file__).parents[1] / "clients"
THOUGHT = "<think>Look first.</think>"
CALL = '<tool_call>{"name": "weather", "arguments": {"at": "Oslo", "days": 2}}</tool_call>'


def test_thinking_text_and_a_tool_call_reach_the_accumulators(claude: anthropic.Anthropic) -> None:
    said = asking(f"say: {THOUGHT}I look.{CALL}", tools=[WEATHER],
                  thinking={"type": "enabled", "budget_tokens": 300})
    plain = claude.messages.create(**said)
    thinking, text, call = plain.content
    assert (thinking.type, text.type, call.type) == ("thinking", "text", "tool_use")
    assert isinstance(thinking, anthropic.types.ThinkingBlock)
    assert (thinking.thinking, bool(thinking.signature)) == ("Look first.", True)
    assert isinstance(text, anthropic.types.TextBlock)
    assert text.text == "I look."
    assert isinstance(call, anthropic.types.ToolUseBlock)
    assert (call.name, call.input) == ("weather", {"at": "Oslo", "days": 2})
    assert plain.stop_reason == "tool_use"
    assert plain.usage.output_tokens_details is not None
    assert 0 < plain.usage.output_tokens_details.thinking_tokens < plain.usage.output_tokens

    seen: dict[str, str] = {"thinking": "", "text": "", "input_json": ""}
    with claude.messages.stream(**said) as stream:
        for event in stream:
            match event.type:
                case "thinking":
                    seen["thinking"] += event.thinking
                case "text":
                    seen["text"] += event.text
                case "input_json":
                    seen["input_json"] += event.partial_json
        final = stream.get_final_message()
    assert (seen["thinking"], seen["text"]) == ("Look first.", "I look.")
    assert json.loads(seen["input_json"]) == call.input
    without_ids = [[block.to_dict() | {"id": ""} for block in message.content] for message in (final, plain)]
    assert without_ids[0] == without_ids[1]


def test_a_loop_of_tools_runs_to_its_end_with_the_answer_replayed_as_it_came(claude: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": f"say: {THOUGHT}{CALL}"}]
    said: dict[str, Any] = {"model": "tiny", "max_tokens": 400, "tools": [WEATHER],
                            "thinking": {"type": "enabled", "budget_tokens": 300}}
    first = claude.messages.create(**said, messages=messages)
    [call] = [block for block in first.content if block.type == "tool_use"]
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": [
            {"type": "text", "text": "say: It rains in Oslo."}]}]},
    ]
    last = claude.messages.create(**said, messages=messages)
    assert [block.to_dict() for block in last.content] == [{"type": "text", "text": "It rains in Oslo."}]
    assert last.stop_reason == "end_turn"


def test_the_tool_runner_of_the_client_calls_the_function(claude: anthropic.Anthropic) -> None:
    asked: list[str] = []

    @anthropic.beta_tool
    def weather(at: str, days: int) -> str:
        """Of a town.

        Args:
            at: the town
            days: how many
        """
        asked.append(f"{at} {days}")
        return "say: It rains."

    runner = claude.beta.messages.tool_runner(
        model="tiny", max_tokens=200, tools=[weather], messages=[{"role": "user", "content": f"say: {CALL}"}])
    last = runner.until_done()
    assert asked == ["Oslo 2"]
    assert [block.to_dict()["text"] for block in last.content] == ["It rains."]


def test_a_strict_tool_that_cannot_be_enforced_is_refused_under_its_name_here(claude: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string", "not": {"const": "x"}}}}
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(**asking("hi", tools=[{"name": "find", "strict": True, "input_schema": schema}]))
    assert "tools[0].input_schema" in json.dumps(caught.value.body)


@pytest.mark.parametrize(("choice", "calls"), [
    ({"type": "any"}, True), ({"type": "tool", "name": "weather"}, True), ({"type": "none"}, False),
])
def test_a_choice_of_tool_is_kept_whatever_the_model_would_say(
    claude: anthropic.Anthropic, choice: Any, calls: bool
) -> None:
    answer = claude.messages.create(**asking(
        "Say something.", tools=[WEATHER], tool_choice=choice, extra_body={"seed": 1}))
    assert any(block.type == "tool_use" for block in answer.content) == calls
    if calls and answer.stop_reason != "max_tokens":
        assert answer.stop_reason == "tool_use"


def test_the_npm_package_answers_streams_calls_and_counts(daemon: Daemon) -> None:
    shown = subprocess.run(
        ["node", "messages.mjs", daemon.base_url, "tiny"], cwd=CLIENTS, capture_output=True, text=True, timeout=60,
        check=False)
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert told["text"] == told["plain"]["content"][0]["text"] == "Good day."
    assert told["final"]["content"] == told["plain"]["content"]
    assert told["events"][0] == "message_start"
    assert told["events"][-1] == "message_stop"
    for message in (told["called"], told["calledInStream"]):
        assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use"]
        assert message["content"][2]["input"] == {"at": "Oslo"}
        assert message["stop_reason"] == "tool_use"
    assert (told["thinking"], json.loads(told["inputs"])) == ("Look first.", {"at": "Oslo"})
    usage = told["plain"]["usage"]
    assert told["counted"]["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert told["refused"] == {
        "name": "NotFoundError", "status": 404, "type": "not_found_error", "id": told["refused"]["id"]}
    assert told["refused"]["id"]
