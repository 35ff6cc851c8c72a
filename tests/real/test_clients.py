"""An unchanged OpenAI program against the real model: Python and JavaScript, streamed and not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import ollama
import openai
import pytest

from tests.real.conftest import Served

pytestmark = pytest.mark.real

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"
CLIENTS = Path(__file__).parents[1] / "clients"


def test_the_python_sdk_chats_and_streams_the_same_text(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    plain = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=24)
    text = plain.choices[0].message.content
    assert text is not None
    assert plain.usage is not None
    assert plain.usage.prompt_tokens > 20
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
    with client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=24, stream=True,
    ) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == text
    assert len(pieces) > 5


def test_models_are_listed_with_what_serves_them(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
    assert MODEL in [model.id for model in client.models.list()]
    told = client.models.retrieve(MODEL).to_dict()
    assert isinstance(told["edged"], dict)
    assert told["edged"]["engine"] == "llama"
    assert len(told["edged"]["digest"]) >= 64


def test_completions_go_on_with_a_text_and_give_exact_logprobs(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=3, echo=True)
    [choice] = answer.choices
    assert choice.text.startswith("The capital of France is")
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    # The client's types do not say so, but the first token of a prompt has no log-probability.
    values: list[float | None] = list(choice.logprobs.token_logprobs or [])
    assert values[0] is None
    assert all(value is not None and value <= 0 for value in values[1:])


def test_n_choices_come_from_one_prompt_and_a_seed_repeats_them(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")

    def texts() -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Name an animal."}], n=3, seed=11, max_tokens=12,
            temperature=1.5)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens < 60
        return [choice.message.content for choice in sorted(answer.choices, key=lambda choice: choice.index)]

    first = texts()
    assert len(set(first)) > 1
    assert texts() == first


def test_ollamas_client_gets_the_same_text_and_the_models_own_facts(served: Served) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
    theirs = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=24)  # type: ignore[arg-type]
    with ollama.Client(host=served.url) as programs:
        options = {"temperature": 0, "num_predict": 24}
        told = programs.chat("smollm2:135m", messages, options=options)
        assert told.message.content == theirs.choices[0].message.content
        begun = [*messages, {"role": "assistant", "content": "The capital of France is"}]
        assert "Paris" in (programs.chat(MODEL, begun, options=options).message.content or "")
        first = programs.generate(MODEL, QUESTION, options=options)
        assert first.response == told.message.content
        again = programs.generate(MODEL, "And of Italy?", context=first.context, options=options)
        turns = [{"role": "assistant", "content": first.response}, {"role": "user", "content": "And of Italy?"}]
        whole = programs.chat(MODEL, [*messages, *turns], options=options)
        assert (again.response, again.prompt_eval_count) == (whole.message.content, whole.prompt_eval_count)
        with pytest.raises(ollama.ResponseError, match=r"does not think.* `think`"):
            programs.chat(MODEL, messages, think=True)
        shown = programs.show(MODEL)
    assert (shown.details and shown.details.family, shown.capabilities) == ("llama", ["completion"])
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "<|im_start|>" in (shown.template or "")


def test_the_npm_package_lists_chats_and_streams(served: Served) -> None:
    shown = subprocess.run(
        ["node", "chat.mjs", served.url + "/v1", MODEL], cwd=CLIENTS, capture_output=True, text=True, timeout=100,
        check=False)
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert MODEL in told["models"]
    assert told["streamed"] == told["plain"]
    assert told["chunks"] > 5
    assert told["finish"] in {"stop", "length"}
    assert told["usage"]["completion_tokens"] == told["usagePlain"]["completion_tokens"]
    assert told["refused"] == {"status": 404, "code": "model_not_found", "type": "invalid_request_error"}
