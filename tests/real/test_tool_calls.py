"""Calls of a real model that knows no format of tools: required ones are enforced, so each is valid."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.real.conftest import Served

pytestmark = pytest.mark.real

MODEL = "smollm2-135m"
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object", "additionalProperties": False, "required": ["city", "unit"],
        "properties": {
            "city": {"type": "string", "maxLength": 16}, "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
    },
    "add_reminder": {
        "type": "object", "additionalProperties": False, "required": ["text", "when"],
        "properties": {
            "text": {"type": "string", "maxLength": 24}, "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
        },
    },
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": name.replace("_", " "), "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
PROMPTS = [
    "What is the weather in Paris?", "Will it rain in Tokyo this week?", "Remind me to buy milk on 2030-01-02.",
    "Hello!", "Tell me a joke about cats.", "Wie warm ist es in Köln?", "I must call mother tomorrow.",
    "How many days until summer?", "Write a poem.", "{\"city\": \"Rome\"}",
]


@pytest.mark.parametrize("choice", ["required", "named"])
def test_every_required_call_is_valid(served: Served, choice: str) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    named: Any = {"type": "function", "function": {"name": "add_reminder"}}
    for seed, prompt in enumerate(PROMPTS):
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], tools=TOOLS, parallel_tool_calls=False,
            tool_choice=named if choice == "named" else "required", max_tokens=200, seed=seed,
        )
        [made] = answer.choices
        assert (made.finish_reason, made.message.content) == ("tool_calls", None)
        assert made.message.tool_calls
        [call] = made.message.tool_calls
        assert call.type == "function"
        assert call.function.name in (["add_reminder"] if choice == "named" else SCHEMAS)
        jsonschema.validate(
            json.loads(call.function.arguments), SCHEMAS[call.function.name],
            format_checker=jsonschema.FormatChecker())


def test_the_tools_are_shown_to_the_model_and_a_loop_goes_on(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    said: dict[str, Any] = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 120}
    bare = client.chat.completions.create(**said).usage
    first = client.chat.completions.create(**said, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert bare is not None
    assert first.usage is not None
    assert first.usage.prompt_tokens > bare.prompt_tokens + 100
    call = (first.choices[0].message.tool_calls or [])[0]
    messages += [first.choices[0].message.to_dict(),
                 {"role": "tool", "tool_call_id": call.id, "content": "It is sunny, 24 degrees."}]
    second = client.chat.completions.create(**said, tools=TOOLS, tool_choice="none")
    assert second.choices[0].message.content
    assert second.choices[0].finish_reason in ("stop", "length")
