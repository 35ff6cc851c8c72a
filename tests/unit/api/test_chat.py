from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ContextLengthExceeded, QueueFull, WorkerDied
from edged.types import ChatPrompt, ChoiceEnd, Delta, Finished, Started, TokenLogprob, Usage
from tests.unit.api.asgi import Client, ask, get
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
ROUTER = FakeRouter(words())
APP = app_with(ROUTER)


async def test_a_plain_answer_has_openais_shape_and_says_who_answered() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), CHAT, HELLO)
    assert reply.status == 200
    answer = reply.json
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [{
        "index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": None},
        "logprobs": None, "finish_reason": "stop",
    }]
    assert answer["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"
    assert reply.answer_headers["edged-engine"] == "fake"
    assert reply.answer_headers["edged-device"] == "CPU (fake)"
    assert int(reply.answer_headers["edged-queue-ms"]) >= 0


async def test_a_stream_is_role_content_reason_done() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), CHAT, HELLO | {"stream": True})
    assert reply.status == 200
    assert reply.answer_headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = reply.events
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_with_no_choices_where_asked_for() -> None:
    body = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = (await ask(app_with(FakeRouter(words("a"))), CHAT, body)).events
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 4
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_every_choice_of_n_is_told_apart() -> None:
    app = app_with(FakeRouter(words("a", "b")))
    plain = (await ask(app, CHAT, HELLO | {"n": 3})).json
    assert [choice["message"]["content"] for choice in plain["choices"]] == ["ab", "ab", "ab"]
    stream = (await ask(app, CHAT, HELLO | {"n": 3, "stream": True})).events[:-1]
    ends = [chunk["choices"][0]["index"] for chunk in stream if chunk["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


async def test_logprobs_carry_bytes_and_alternatives_and_no_infinity() -> None:
    token = TokenLogprob(7, "a", b"a", -0.5, [(7, "a", b"a", -0.5), (8, "\ufffd", b"\xf0", float("-inf"))])

    def script(request: Any) -> list[Any]:
        return [Started(request.id, 1, 0, 0.0), Delta(request.id, 0, "a", 1, [token]),
                ChoiceEnd(request.id, 0, "length"), Finished(request.id, Usage(1, 1))]

    router = FakeRouter(script)
    app = app_with(router)
    body = HELLO | {"logprobs": True, "top_logprobs": 2}
    expected = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
        {"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "\ufffd", "logprob": -9999.0, "bytes": [240]},
    ]}]
    assert (await ask(app, CHAT, body)).json["choices"][0]["logprobs"] == {"content": expected, "refusal": None}
    streamed = (await ask(app, CHAT, body | {"stream": True})).events
    assert streamed[1]["choices"][0]["logprobs"]["content"] == expected
    assert [request.logprobs for request in router.requests] == [2, 2]


@given(st.lists(st.text(max_size=4), max_size=12))
def test_any_cut_of_the_text_streams_what_it_answers_plainly(texts: list[str]) -> None:
    async def both() -> None:
        ROUTER.script = words(*texts)
        plain = (await ask(APP, CHAT, HELLO)).json["choices"][0]["message"]["content"]
        chunks = (await ask(APP, CHAT, HELLO | {"stream": True})).events[:-1]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == plain == "".join(texts)

    asyncio.run(both())


async def test_the_request_reaches_the_router_as_it_was_said() -> None:
    router = FakeRouter(words("x"))
    body = {
        "model": "tiny",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
            {"role": "user", "content": "weather?", "name": "someone"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Oslo"}'}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{at: "}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.1,
        "presence_penalty": -1, "frequency_penalty": 2, "logit_bias": {"5": -100}, "seed": 42, "stop": "END",
        "max_completion_tokens": 9, "chat_template_kwargs": {"enable_thinking": False},
    }
    assert (await ask(app_with(router), CHAT, body)).status == 200
    request = router.requests[0]
    assert request.prompt == ChatPrompt(
        messages=[
            {"role": "system", "content": "be\nbrief"},
            {"role": "user", "content": "weather?", "name": "someone"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"at": "Oslo"}}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{at: "}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        template_kwargs={"enable_thinking": False},
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.logit_bias, sampling.seed) == (0.0, 3, {5: -100.0}, 42)
    assert (request.stop, request.max_tokens, request.n, request.client) == (("END",), 9, 1, "127.0.0.1")


async def test_an_error_before_the_stream_has_its_own_status() -> None:
    def script(request: Any) -> list[Any]:
        return [ContextLengthExceeded("The prompt has 9000 tokens, the context 8192.", param="messages")]

    reply = await ask(app_with(FakeRouter(script)), CHAT, HELLO | {"stream": True})
    assert reply.status == 400
    assert reply.error["code"] == "context_length_exceeded"


async def test_an_error_in_mid_stream_is_an_event_and_no_done() -> None:
    def script(request: Any) -> list[Any]:
        return [Started(request.id, 1, 0, 0.0), Delta(request.id, 0, "a"), WorkerDied("The worker died.")]

    router = FakeRouter(script)
    reply = await ask(app_with(router), CHAT, HELLO | {"stream": True})
    assert reply.status == 200
    assert reply.complete
    assert reply.events[-1] == {
        "error": {"message": "The worker died.", "type": "server_error", "param": None, "code": "worker_died"},
    }
    assert router.generations[0].cancelled.is_set()


async def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    router = FakeRouter(words("a"))
    router.refuse = RuntimeError("/secret/path")
    reply = await ask(app_with(router), CHAT, HELLO)
    assert reply.status == 500
    assert reply.error["code"] == "internal_error"
    assert "secret" not in reply.text


async def test_a_full_queue_says_when_to_come_back() -> None:
    router = FakeRouter(words("a"))
    router.refuse = QueueFull("64 requests wait already.", retry_after_s=2.2)
    app = app_with(router)
    reply = await ask(app, CHAT, HELLO)
    assert (reply.status, reply.answer_headers["retry-after"]) == (429, "3")
    assert "x-should-retry" not in reply.answer_headers
    metrics = await get(app, "/metrics")
    assert 'edged_requests_total{endpoint="/v1/chat/completions",model="tiny",status="429"} 1.0' in metrics.text


async def test_the_deadline_is_a_504_that_is_not_retried() -> None:
    def script(request: Any) -> list[Any]:
        return [Started(request.id, 1, 0, 0.0), 30.0]

    router = FakeRouter(script)
    reply = await ask(app_with(router), CHAT, HELLO | {"timeout_s": 0.02})
    assert (reply.status, reply.error["code"], reply.answer_headers["x-should-retry"]) == (504, "timeout", "false")
    assert router.generations[0].cancelled.is_set()
    stream = await ask(app_with(router), CHAT, HELLO | {"timeout_s": 0.02, "stream": True})
    assert stream.events[-1]["error"]["code"] == "timeout"


async def test_a_long_load_beats_and_then_streams() -> None:
    router = FakeRouter(words("a"))
    router.load_s = 0.06
    reply = await ask(app_with(router, heartbeat_s=0.02), CHAT, HELLO | {"stream": True})
    assert reply.status == 200
    assert reply.pieces[0] == b": still working\n\n"
    assert reply.events[-1] == "[DONE]"


async def test_an_error_after_the_heartbeat_is_an_event() -> None:
    router = FakeRouter(words("a"))
    router.load_s, router.refuse = 0.05, QueueFull("full")
    reply = await ask(app_with(router, heartbeat_s=0.02), CHAT, HELLO | {"stream": True})
    assert reply.status == 200
    assert reply.events[-1]["error"]["code"] == "queue_full"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_gone_while_the_model_loads_leaves_the_queue(stream: bool) -> None:
    router = FakeRouter(words("a"))
    router.load_s = 30
    client = Client(app_with(router), CHAT, json.dumps(HELLO | {"stream": stream}).encode())
    running = asyncio.create_task(client.run())
    await router.until(lambda: bool(router.requests))
    client.gone.set()
    await asyncio.wait_for(running, 1)
    assert router.abandoned == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("read", [0, 2])
async def test_a_client_gone_in_prefill_or_mid_stream_frees_its_row(stream: bool, read: int) -> None:
    def script(request: Any) -> list[Any]:
        return [*[Started(request.id, 1, 0, 0.0), Delta(request.id, 0, "a")][:read], 30.0]

    router = FakeRouter(script)
    client = Client(app_with(router), CHAT, json.dumps(HELLO | {"stream": stream}).encode())
    running = asyncio.create_task(client.run())
    await router.until(lambda: bool(router.generations) and router.generations[0].read >= read)
    client.gone.set()
    await asyncio.wait_for(running, 1)
    assert router.generations[0].cancelled.is_set()


async def test_a_client_that_stops_reading_holds_its_generation_back() -> None:
    router = FakeRouter(words(*"abcdefghijklmnop"))
    client = Client(app_with(router), CHAT, json.dumps(HELLO | {"stream": True}).encode())
    client.reading.clear()
    running = asyncio.create_task(client.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert router.generations[0].read == 1
    client.reading.set()
    await asyncio.wait_for(running, 1)
    assert client.events[-1] == "[DONE]"


async def test_keep_alive_is_handed_to_the_router_once_the_request_runs() -> None:
    router = FakeRouter(words("a"))
    await ask(app_with(router), CHAT, HELLO | {"keep_alive": "10m"})
    assert router.calls == [("load", "tiny", 600.0, None)]
