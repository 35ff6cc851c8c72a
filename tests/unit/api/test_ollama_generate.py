"""POST /api/generate: prompts as turns or as the text they are, and the conversation in `context`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.ollama.context import Turns, decode, encode
from edged.errors import InvalidRequest
from edged.types import ChatPrompt, GenerateRequest, Reasoning, TextPrompt
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

GENERATE = "/api/generate"
HISTORY = encode([{"role": "user", "content": "Hello."}])
PLAIN: dict[str, Any] = {"model": "tiny", "prompt": "Why?", "stream": False}


async def parsed(**said: Any) -> GenerateRequest:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), GENERATE, PLAIN | said)
    assert reply.status == 200, reply.text
    return router.requests[0]


async def test_a_prompt_is_a_turn_and_its_answer_streams_in_lines() -> None:
    router = FakeRouter(words("Be", "cause"))
    app = app_with(router)
    reply = await ask(app, GENERATE, {"model": "tiny", "prompt": "Why?"})
    assert reply.answer_headers["content-type"] == "application/x-ndjson"
    *pieces, last = map(json.loads, reply.text.splitlines())
    assert [piece["response"] for piece in pieces] == ["Be", "cause"]
    assert all(piece["done"] is False and "context" not in piece for piece in pieces)
    assert (last["response"], last["done"], last["done_reason"], last["eval_count"]) == ("", True, "stop", 2)
    plain = (await ask(app, GENERATE, PLAIN)).json
    assert plain["response"] == "Because"
    assert plain["context"] == last["context"]
    assert {*plain} == {*last}
    assert router.requests[0].prompt == ChatPrompt([{"role": "user", "content": "Why?"}])


async def test_the_context_of_an_answer_goes_on_with_its_conversation() -> None:
    router = FakeRouter(words("Be", "cause"))
    app = app_with(router)
    first = (await ask(app, GENERATE, PLAIN | {"system": "Be brief."})).json
    second = (await ask(app, GENERATE, PLAIN | {"prompt": "Really?", "context": first["context"]})).json
    turns = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because"}, {"role": "user", "content": "Really?"},
    ]
    assert router.requests[1].prompt == ChatPrompt(turns)
    await ask(app, GENERATE, PLAIN | {"system": "Be kind.", "context": second["context"]})
    assert router.requests[2].prompt == ChatPrompt([
        {"role": "system", "content": "Be kind."}, *turns[1:], {"role": "assistant", "content": "Because"},
        {"role": "user", "content": "Why?"},
    ])


async def test_raw_and_suffix_take_the_prompt_as_it_stands_and_give_no_context() -> None:
    assert (await parsed(raw=True)).prompt == TextPrompt("Why?")
    assert (await parsed(suffix="end")).prompt == TextPrompt("Why?", "end")
    assert (await parsed(suffix="end", prompt="")).prompt == TextPrompt("", "end")
    assert (await parsed(suffix="", raw=False)).prompt == ChatPrompt([{"role": "user", "content": "Why?"}])
    reply = await ask(app_with(FakeRouter(words("a"))), GENERATE, PLAIN | {"raw": True})
    assert "context" not in reply.json


async def test_think_is_of_turns_too() -> None:
    assert (await parsed(think=False)).reasoning == Reasoning(effort="none")


@pytest.mark.parametrize(("said", "names"), [
    ({"raw": True, "system": "x"}, "system"), ({"suffix": "x", "context": HISTORY}, "context"),
    ({"suffix": "x", "think": True}, "think"), ({"template": "{{ .Prompt }}"}, "template"),
    ({"images": ["aGk="]}, "images"), ({"width": 64}, "width"), ({"context": [1, 2, 3]}, "context"),
    ({"context": "x"}, "context"), ({"prompt": 1}, "prompt"), ({"messages": []}, "messages"),
])
async def test_what_is_not_served_is_refused_by_name(said: dict[str, Any], names: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), GENERATE, PLAIN | said)
    assert reply.status == 400
    assert f"`{names}`" in reply.json["error"]


async def test_what_clients_always_send_means_nothing() -> None:
    request = await parsed(template="", images=[], system="", suffix="", context=[], format="", raw=False)
    assert request == GenerateRequest(id=request.id, prompt=ChatPrompt([{"role": "user", "content": "Why?"}]),
                                      to_context_end=True, constraint_field="format", client=request.client)


async def test_no_prompt_loads_the_model_and_a_keep_alive_of_zero_unloads_it() -> None:
    router = FakeRouter(words("a"))
    app = app_with(router)
    loaded = json.loads((await ask(app, GENERATE, {"model": "tiny"})).text)
    assert (loaded["response"], loaded["done"], loaded["done_reason"]) == ("", True, "load")
    unloaded = (await ask(app, GENERATE, {"model": "tiny", "prompt": "", "keep_alive": "0", "stream": False})).json
    assert unloaded["done_reason"] == "unload"
    assert router.calls == [("load", "tiny", None, None), ("unload", "tiny", False)]


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]),
                                       "content": st.text()})))
def test_a_context_holds_any_conversation(turns: Turns) -> None:
    assert decode(json.loads(json.dumps(encode(turns))), "context") == turns


@given(st.one_of(
    st.lists(st.integers(), min_size=1), st.integers(), st.text(), st.none(),
    st.lists(st.one_of(st.integers(0, 0x110000), st.booleans(), st.floats())).map(lambda rest: [encode([])[0], *rest]),
))
def test_a_context_that_is_not_ours_is_refused(value: Any) -> None:
    refused = None
    try:
        turns = decode(value, "context")
    except InvalidRequest as error:
        refused, turns = error.param, []
    assert refused in (None, "context")
    assert all({*turn} == {"role", "content"} for turn in turns)


@pytest.mark.parametrize("turns", ['[{"role": "tool", "content": "x"}]', '[{"role": "user"}]', "{}", "[1]",
                                   '[{"role": "user", "content": "x", "more": 1}]'])
def test_a_context_with_other_messages_is_refused(turns: str) -> None:
    with pytest.raises(InvalidRequest):
        decode([encode([])[0], *map(ord, turns)], "context")
