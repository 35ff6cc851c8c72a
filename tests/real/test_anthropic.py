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
    client = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    with client.messages.stream(model=MODEL, max_tokens=24, system=SYSTEM, messages=MESSAGES,
                                extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    chat = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0).chat.completions.create(
        model=MODEL, max_tokens=24, temperature=0, messages=[{"role": "system", "content": SYSTEM}, *MESSAGES])
    assert text == chat.choices[0].message.content
    assert final.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[chat.choices[0].finish_reason]
    assert chat.usage is not None
    counted = client.messages.count_tokens(model=MODEL, system=SYSTEM, messages=MESSAGES)
    assert counted.input_tokens == chat.usage.prompt_tokens
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == counted.input_tokens
    assert final.usage.output_tokens == chat.usage.completion_tokens
