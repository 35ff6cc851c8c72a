"""Structured output with the official client, against the real daemon and worker with the fake engine, which says what
the last message tells it to as far as the format allows, and else draws by chance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http


class Step(BaseModel):
    explanation: str
    output: int | None


class Solution(BaseModel):
    kind: Literal["sum", "product"]
    steps: list[Step]
    sure: bool


SOLUTION = ('{"kind": "product", "steps": [{"explanation": "Zwölf \\"mal\\" zwei 🙂", "output": 24}, '
            '{"explanation": "", "output": null}], "sure": true}')


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with daemon.openai() as client:
        yield client


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_pydantic_model_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=ask(f"say: {SOLUTION}"), response_format=Solution, max_tokens=300)
    choice = answer.choices[0]
    assert choice.message.parsed == Solution.model_validate_json(SOLUTION)
    assert (choice.message.content, choice.finish_reason) == (SOLUTION, "stop")


def test_a_pydantic_model_is_parsed_from_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny", messages=ask(f"say: {SOLUTION}"), response_format=Solution, max_tokens=300
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == SOLUTION
    assert len(deltas) > 10
    assert final.choices[0].message.parsed == Solution.model_validate_json(SOLUTION)


def test_a_model_that_would_say_something_else_is_held_to_the_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"size": {"enum": ["small", "large"]}, "count": {"type": "integer"}},
              "required": ["size", "count"], "additionalProperties": False}
    schema["properties"]["count"] |= {"minimum": 1, "maximum": 20}  # type: ignore[index]
    said: dict[str, Any] = {
        "model": "tiny", "messages": ask("say: I would rather not."), "n": 3, "temperature": 1.2, "max_tokens": 100,
        "response_format": {"type": "json_schema", "json_schema": {"name": "box", "strict": True, "schema": schema}},
    }
    for seed in range(4):
        answer = client.chat.completions.create(**said, seed=seed)
        for choice in answer.choices:
            box = json.loads(choice.message.content or "")
            assert sorted(box) == ["count", "size"]
            assert box["size"] in ("small", "large")
            assert 1 <= box["count"] <= 20
            assert choice.finish_reason == "stop"


def test_an_answer_that_was_cut_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="tiny", messages=ask(f"say: {SOLUTION}"), response_format=Solution, max_tokens=20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("grammar", "pattern"), [
    ({"type": "regex", "value": "(red|green) box(es)?"}, "(red|green) box(es)?"),
    ({"type": "lark", "value": 'start: "the " COLOUR\nCOLOUR: /red|green/'}, "the (red|green)"),
    ({"type": "gbnf", "value": 'root ::= "the " ("red" | "green")'}, "the (red|green)"),
], ids=["regex", "lark", "gbnf"])
def test_grammars_hold_in_chat_and_completions(
    client: openai.OpenAI, grammar: dict[str, str], pattern: str, stream: bool
) -> None:
    more: dict[str, Any] = {"max_tokens": 40, "n": 2, "extra_body": {"grammar": grammar}}
    texts = ["", ""]
    if stream:
        for chunk in client.chat.completions.create(model="tiny", messages=ask("hi"), stream=True, **more):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        texts = [choice.message.content or ""
                 for choice in client.chat.completions.create(model="tiny", messages=ask("hi"), **more).choices]
    texts += [choice.text for choice in client.completions.create(model="tiny", prompt="a", **more).choices]
    assert len(texts) == 4
    assert all(re.fullmatch(pattern, text) for text in texts)


@pytest.mark.parametrize(("said", "param", "named"), [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {
        "type": "object", "properties": {"a": {"uniqueItems": True}}}}}},
     "response_format.json_schema.schema", "`uniqueItems` (at /properties/a)"),
    ({"grammar": {"type": "regex", "value": "(?=a)"}}, "grammar.value", "look-around"),
    ({"grammar": {"type": "gbnf", "value": "root ::= thing"}}, "grammar.value", "'thing' not found"),
], ids=["schema", "regex", "gbnf"])
def test_what_cannot_be_enforced_is_a_400_that_names_it(
    client: openai.OpenAI, said: dict[str, Any], param: str, named: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="tiny", messages=ask("hi"), stream=stream, extra_body=said)
        assert (refused.value.code, refused.value.param) == ("invalid_value", param)
        assert named in refused.value.message


def test_forced_tokens_have_logprobs_of_0_and_count_as_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=ask("hi"), logprobs=True, top_logprobs=2, max_tokens=50,
        extra_body={"grammar": {"type": "regex", "value": "[ab] is forced"}})
    assert answer.choices[0].logprobs is not None
    drawn, *forced = answer.choices[0].logprobs.content or []
    assert sum(2.718281828 ** top.logprob for top in drawn.top_logprobs) == pytest.approx(1, abs=1e-4)
    assert [entry.logprob for entry in forced] == [0.0] * len(" is forced")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len("a is forced")
