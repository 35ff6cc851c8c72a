"""/v1/responses with a real model: a conversation that is kept by the server, and answers held to a schema."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.real.conftest import Served

pytestmark = pytest.mark.real

MODEL = "smollm2-135m"


class City(BaseModel):
    name: str = Field(max_length=20)
    continent: Literal["Europe", "Asia", "Africa", "America"]
    capital: bool


def test_a_conversation_goes_on_by_its_id_and_reads_no_turn_twice(served: Served) -> None:
    said: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 12}
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none") as client:
        first = client.responses.create(**said, instructions="You know the world.", input="Where is Rome?")
        second = client.responses.create(**said, instructions="You know the world.", input="And Oslo?",
                                         previous_response_id=first.id)
        whole = client.responses.create(**said, instructions="You know the world.", store=False, input=[
            {"role": "user", "content": "Where is Rome?"}, {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And Oslo?"}])
    assert first.output_text
    assert whole.output_text == second.output_text
    assert first.usage is not None
    assert second.usage is not None
    # All that was computed of the first turn; its answer's last token was never read.
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens + first.usage.output_tokens - 2


def test_an_answer_is_what_its_schema_says(served: Served) -> None:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none") as client:
        answer = client.responses.parse(
            model=MODEL, input="Describe Rome as JSON.", text_format=City, max_output_tokens=80, temperature=0)
    assert isinstance(answer.output_parsed, City)
