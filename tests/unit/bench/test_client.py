from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Answer, BenchError, burst, read_stream

pytestmark = pytest.mark.unit

USAGE = {"prompt_tokens": 18, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
CHAT: list[object] = [
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": None}}]},
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"content": "Hel"}}]},
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"content": "lo"}}]},
    {"choices": [{"index": 0, "finish_reason": "length", "delta": {}}]},
    {"choices": [], "usage": USAGE, "system_fingerprint": "fp"},
]
TEXT: list[object] = [
    {"choices": [{"index": 0, "text": "Hel", "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "lo", "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": USAGE, "system_fingerprint": "fp"},
]


def sse(events: list[object], newline: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(event)}" for event in events] + ["data: [DONE]"]
    return "".join(line + newline * 2 for line in lines).encode()


def read(pieces: list[tuple[float, bytes]]) -> Answer:
    return read_stream(pieces, sent=10.0, start=10.0, headers={})


@pytest.mark.parametrize("events", [CHAT, TEXT], ids=["chat", "completions"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_stream_tells_its_text_counts_and_times(events: list[object], newline: str) -> None:
    pieces = [(11.0 + index, line + b"\n") for index, line in enumerate(sse(events, newline).split(b"\n"))]
    answer = read(pieces)
    assert answer.text == "Hello"
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (18, 3, 2)
    assert answer.events == 2
    assert answer.fingerprint == "fp"
    # every second line holds an event, one second apart; chat begins with one that has no text
    before = 1 if events is CHAT else 0
    assert answer.first_s == 1.0 + 2 * before
    assert answer.last_s == 1.0 + 2 * (before + 2)


@given(st.lists(st.integers(min_value=1, max_value=400), max_size=20))
def test_events_cut_anywhere_read_the_same(cuts: list[int]) -> None:
    whole, pieces = sse(CHAT), []
    for cut in cuts:
        pieces.append((11.0, whole[:cut]))
        whole = whole[cut:]
    assert read([*pieces, (11.0, whole)]) == read([(11.0, sse(CHAT))])


@pytest.mark.parametrize("missing", [1, 3, 4], ids=["text", "end", "usage"])
def test_a_stream_without_text_end_or_usage_is_an_error(missing: int) -> None:
    events = [event for index, event in enumerate(CHAT) if index != missing and (missing != 1 or index != 2)]
    with pytest.raises(BenchError, match="without text, finish_reason or usage"):
        read([(11.0, sse(events))])


def test_an_error_in_a_stream_is_an_error() -> None:
    with pytest.raises(BenchError, match="worker_died"):
        read([(11.0, sse([*CHAT[:2], {"error": {"code": "worker_died"}}]))])


@asynccontextmanager
async def serving(answer: bytes, *, hangs_up: bool = True) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers every request with these bytes and hangs up, or waits until the client does. Yields its
    address and what it was asked."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        asked.append(await reader.readexactly(length))
        writer.write(answer)
        await writer.drain()
        if not hangs_up:
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def chunked(payload: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nEdged-Engine: fake\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload)


async def test_a_burst_asks_everything_and_reads_every_answer() -> None:
    async with serving(chunked(sse(CHAT))) as (url, asked):
        done = await burst(url, "chat", [{"number": number} for number in range(3)])
    assert [answer.text for answer in done.answers] == ["Hello"] * 3
    assert sorted(json.loads(body)["number"] for body in asked) == [0, 1, 2]
    assert done.answers[0].headers["edged-engine"] == "fake"
    assert 0 <= max(answer.last_s for answer in done.answers) <= done.wall_s
    assert 0 < done.client_cpu_s < 5


async def test_a_refusal_is_told_with_its_body() -> None:
    async with serving(chunked(b'{"error": "no such model"}', "404 Not Found")) as (url, _):
        with pytest.raises(BenchError, match=r"answered 404: .*no such model"):
            await burst(url, "chat", [{}])


async def test_a_connection_cut_in_the_middle_is_an_error() -> None:
    async with serving(chunked(sse(CHAT))[:200]) as (url, _):
        with pytest.raises(BenchError, match="closed the connection before the answer ended"):
            await burst(url, "chat", [{}])


async def test_a_server_that_goes_silent_is_an_error_after_the_deadline() -> None:
    async with serving(chunked(sse(CHAT))[:200], hangs_up=False) as (url, _):
        with pytest.raises(BenchError, match=r"no whole answer from .* within 0\.05 s"):
            await burst(url, "chat", [{}], timeout_s=0.05)


async def test_nobody_listening_is_an_error() -> None:
    async with serving(b"") as (url, _):
        pass
    with pytest.raises(BenchError, match="no connection to"):
        await burst(url, "chat", [{}])
