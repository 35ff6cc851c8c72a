from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import QueueFull, WorkerDied
from edged.types import (
    ChoiceEnd,
    Delta,
    Finished,
    GenerateRequest,
    Started,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Usage,
)
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

PATH = "/v1/completions"
HELLO = {"model": "tiny", "prompt": "once"}
ROUTER = FakeRouter(words())
APP = app_with(ROUTER)


def echoing(request: GenerateRequest) -> list[Any]:
    """Each choice says its prompt and its number."""
    prompt = request.prompt.text if isinstance(request.prompt, TextPrompt) else "tokens"
    events: list[Any] = [Started(request.id, 2, 0, 0.0)]
    for index in range(request.n):
        events += [Delta(request.id, index, prompt), 0.0, Delta(request.id, index, f"/{index}")]
        events.append(ChoiceEnd(request.id, index, "length"))
    return [*events, Finished(request.id, Usage(2, 2 * request.n, 1))]


async def test_a_plain_answer_has_openais_shape() -> None:
    reply = await ask(app_with(FakeRouter(words("a", "b"))), PATH, HELLO)
    answer = reply.json
    assert (reply.status, answer["object"]) == (200, "text_completion")
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"text": "ab", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["total_tokens"] == 5


async def test_choice_j_of_prompt_i_has_the_index_i_n_plus_j() -> None:
    app = app_with(FakeRouter(echoing))
    body = HELLO | {"prompt": ["x", "y", "z"], "n": 2}
    answer = (await ask(app, PATH, body)).json
    expected = ["x/0", "x/1", "y/0", "y/1", "z/0", "z/1"]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["completion_tokens"] == 12
    texts = [""] * 6
    for chunk in (await ask(app, PATH, body | {"stream": True})).events[:-1]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == expected


@pytest.mark.parametrize(("prompt", "asked"), [
    ("x", [TextPrompt("x")]), (["x", "y"], [TextPrompt("x"), TextPrompt("y")]), ([1, 2], [TokenPrompt([1, 2])]),
    ([[1], [2, 3]], [TokenPrompt([1]), TokenPrompt([2, 3])]), (["x", [5]], [TextPrompt("x"), TokenPrompt([5])]),
])
async def test_prompts_in_all_their_forms(prompt: Any, asked: list[Any]) -> None:
    router = FakeRouter(words("a"))
    assert (await ask(app_with(router), PATH, HELLO | {"prompt": prompt})).status == 200
    assert [request.prompt for request in router.requests] == asked
    assert len({request.id for request in router.requests}) == len(asked)


@pytest.mark.parametrize(("prompt", "param"), [
    ([], "prompt"), ({}, "prompt"), (5, "prompt"), ([1, "x"], "prompt[1]"), (["x", 5], "prompt[1]"),
    ([[]], "prompt[0]"), ([-1], "prompt[0]"), ([[1], [2**40]], "prompt[1][0]"), ([1.5], "prompt[0]"),
    ([True], "prompt[0]"), (["x"] * 200, "prompt"),
])
async def test_a_prompt_that_is_none_is_refused_with_its_path(prompt: Any, param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, HELLO | {"prompt": prompt})
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_openais_default_of_sixteen_tokens_holds() -> None:
    router = FakeRouter(words("a"))
    await ask(app_with(router), PATH, HELLO)
    await ask(app_with(router), PATH, HELLO | {"max_tokens": 5, "echo": True, "logprobs": 0})
    assert [(request.max_tokens, request.echo, request.logprobs) for request in router.requests] == [
        (16, False, None), (5, True, 0)]


async def test_a_suffix_is_asked_of_every_prompt_and_an_empty_one_is_none() -> None:
    router = FakeRouter(words("a"))
    await ask(app_with(router), PATH, HELLO | {"prompt": ["x", "y"], "suffix": "end"})
    await ask(app_with(router), PATH, HELLO | {"prompt": "z", "suffix": ""})
    assert [request.prompt for request in router.requests] == [
        TextPrompt("x", "end"), TextPrompt("y", "end"), TextPrompt("z")]


@pytest.mark.parametrize(("more", "param"), [
    ({"suffix": "end", "echo": True}, "echo"), ({"suffix": "end", "prompt": [1, 2]}, "suffix"),
    ({"suffix": 5}, "suffix"), ({"best_of": 2, "n": 3}, "best_of"), ({"best_of": 21}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"), ({"best_of": 20, "prompt": ["x"] * 7}, "n"),
])
async def test_what_cannot_go_together_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, HELLO | more)
    assert (reply.status, reply.error["param"]) == (400, param)


def scored(request: GenerateRequest) -> list[Any]:
    """Four choices; the likeliest by token is 2, then 0, 3 (of many tokens) and 1, which has none."""
    means = {0: [-1.0], 1: [], 2: [-0.5, -0.7], 3: [-1.2] * 4}
    events: list[Any] = [Started(request.id, 2, 0, 0.0)]
    for index in range(request.n):
        if request.echo:
            told = [TokenLogprob(9, "once", b"once", None), TokenLogprob(9, "", b"", -50.0 if index == 2 else 0.0)]
            events.append(Delta(request.id, index, "once", 0, told))
        tokens = [TokenLogprob(5, "w", b"w", value) for value in means[index]]
        events += [Delta(request.id, index, f"{index}", len(tokens), tokens), ChoiceEnd(request.id, index, "stop")]
    return [*events, Finished(request.id, Usage(2, 7))]


@pytest.mark.parametrize("echo", [False, True])
async def test_the_best_of_several_are_answered_best_first(echo: bool) -> None:
    router = FakeRouter(scored)
    body = HELLO | {"prompt": ["x", "y"], "best_of": 4, "n": 3, "echo": echo}
    answer = (await ask(app_with(router), PATH, body)).json
    expected = [("once" if echo else "") + text for text in "203"] * 2
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert [choice["logprobs"] for choice in answer["choices"]] == [None] * 6
    assert answer["usage"]["completion_tokens"] == 14  # of all that were written
    assert [(request.n, request.logprobs) for request in router.requests] == [(4, 0)] * 2


async def test_as_many_as_are_written_are_in_their_order_and_may_stream() -> None:
    router = FakeRouter(scored)
    answer = (await ask(app_with(router), PATH, HELLO | {"best_of": 4, "n": 4})).json
    assert [choice["text"] for choice in answer["choices"]] == ["0", "1", "2", "3"]
    assert (await ask(app_with(router), PATH, HELLO | {"best_of": 1, "stream": True})).status == 200


async def test_the_best_one_has_its_logprobs_where_they_were_asked_for() -> None:
    answer = (await ask(app_with(FakeRouter(scored)), PATH, HELLO | {"best_of": 4, "logprobs": 0})).json
    [choice] = answer["choices"]
    assert choice["logprobs"]["token_logprobs"] == [-0.5, -0.7]


async def test_too_many_answers_of_one_request_are_refused() -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, HELLO | {"prompt": ["x"] * 16, "n": 16})
    assert (reply.status, reply.error["param"]) == (400, "n")


EURO = [
    TokenLogprob(1, "h", b"h", None), TokenLogprob(2, "\ufffd", b"\xe2\x82", -1.5, [(2, "\ufffd", b"\xe2\x82", -1.5)]),
    TokenLogprob(3, "\ufffd", b"\xac", -0.5), TokenLogprob(4, " x", b" x", -0.25, [(4, " x", b" x", -0.25)]),
]


@given(st.lists(st.integers(0, 4), max_size=3).map(sorted))
def test_logprobs_are_the_same_however_the_events_are_cut(cuts: list[int]) -> None:
    def script(request: GenerateRequest) -> list[Any]:
        events: list[Any] = [Started(request.id, 2, 0, 0.0)]
        for begin, end in zip([0, *cuts], [*cuts, 4], strict=True):
            events.append(Delta(request.id, 0, "", end - begin, EURO[begin:end]))
        return [*events, Delta(request.id, 0, "h€ x", 0), ChoiceEnd(request.id, 0, "stop"),
                Finished(request.id, Usage(2, 4))]

    async def both() -> None:
        ROUTER.script = script
        body = HELLO | {"logprobs": 1, "echo": True}
        choice = (await ask(APP, PATH, body)).json["choices"][0]
        assert choice["text"] == "h€ x"
        assert choice["logprobs"] == {
            "text_offset": [0, 1, 1, 2], "token_logprobs": [None, -1.5, -0.5, -0.25],
            "tokens": ["h", "bytes:\\xe2\\x82", "bytes:\\xac", " x"],
            "top_logprobs": [None, {"bytes:\\xe2\\x82": -1.5}, {"bytes:\\xac": -0.5}, {" x": -0.25}],
        }
        streamed: dict[str, list[Any]] = {}
        for chunk in (await ask(APP, PATH, body | {"stream": True})).events[:-1]:
            for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
                streamed.setdefault(name, []).extend(values)
        assert streamed == choice["logprobs"]

    asyncio.run(both())


async def test_one_prompt_that_fails_ends_them_all() -> None:
    def script(request: GenerateRequest) -> list[Any]:
        assert isinstance(request.prompt, TextPrompt)
        if request.prompt.text == "bad":
            return [Started(request.id, 1, 0, 0.0), WorkerDied("died")]
        return [Started(request.id, 1, 0, 0.0), 30.0]

    router = FakeRouter(script)
    reply = await ask(app_with(router), PATH, HELLO | {"prompt": ["good", "bad", "good"]})
    assert (reply.status, reply.error["code"]) == (502, "worker_died")
    assert all(generation.cancelled.is_set() for generation in router.generations)


async def test_prompts_accepted_before_one_was_refused_are_let_go() -> None:
    class Narrow(FakeRouter):
        async def generate(self, model: str, request: GenerateRequest) -> Any:
            if len(self.generations) == 2:
                raise QueueFull("full", retry_after_s=1)
            return await super().generate(model, request)

    router = Narrow(words("a"))
    reply = await ask(app_with(router), PATH, HELLO | {"prompt": ["a", "b", "c"]})
    assert reply.status == 429
    assert [generation.cancelled.is_set() for generation in router.generations] == [True, True]


async def test_usage_of_a_stream_sums_all_prompts() -> None:
    body = HELLO | {"prompt": ["x", "y"], "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = (await ask(app_with(FakeRouter(echoing)), PATH, body)).events
    assert done == "[DONE]"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 8)
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_a_prompt_can_be_scored_without_an_answer_and_only_with_echo() -> None:
    router = FakeRouter(echoing)
    assert (await ask(app_with(router), PATH, HELLO | {"max_tokens": 0, "echo": True, "logprobs": 1})).status == 200
    assert router.requests[0].max_tokens == 0
    refused = await ask(app_with(router), PATH, HELLO | {"max_tokens": 0})
    assert (refused.status, refused.json["error"]["param"]) == (400, "max_tokens")
