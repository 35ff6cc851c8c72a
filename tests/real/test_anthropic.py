"""The official client for Anthropic against the real model."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from tests.real.conftest import Served

pytestmark = pytest.mark.real

MODEL = "smollm2-135m"
SYSTEM = "You answer in one short sentence."
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


def test_messages_say_what_chat_says_and_tokens_are_counted_exactly(served: Served) -> None:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        with client.messages.stream(model=MODEL, max_tokens=24, system=SYSTEM, messages=MESSAGES,
                                    extra_body={"temperature": 0}) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        counted = client.messages.count_tokens(model=MODEL, system=SYSTEM, messages=MESSAGES)
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as other:
        chat = other.chat.completions.create(
            model=MODEL, max_tokens=24, temperature=0, messages=[{"role": "system", "content": SYSTEM}, *MESSAGES])
    assert text == chat.choices[0].message.content
    assert final.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[chat.choices[0].finish_reason]
    assert chat.usage is not None
    assert counted.input_tokens == chat.usage.prompt_tokens
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == counted.input_tokens
    assert final.usage.output_tokens == chat.usage.completion_tokens


def test_a_tool_that_must_be_called_is_called_with_what_its_schema_allows(served: Served) -> None:
    tool: Any = {"name": "book", "description": "Books a table.", "strict": True, "input_schema": {
        "type": "object", "properties": {"people": {"type": "integer", "minimum": 1, "maximum": 9},
                                         "meal": {"enum": ["lunch", "dinner"]}},
        "required": ["people", "meal"], "additionalProperties": False}}
    with (anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client,
          client.messages.stream(
              model=MODEL, max_tokens=100, tools=[tool],
              tool_choice={"type": "tool", "name": "book", "disable_parallel_tool_use": True},
              messages=[{"role": "user", "content": "A table for four, at eight in the evening."}],
              extra_body={"temperature": 0}) as stream):
        answer = stream.get_final_message()
    assert answer.stop_reason == "tool_use"
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "book"
    assert call.input.keys() == {"people", "meal"}
    assert call.input["people"] in range(1, 10)
    assert call.input["meal"] in ("lunch", "dinner")
