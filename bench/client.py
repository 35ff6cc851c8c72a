"""A streaming client that costs the machine as little as Python can: it shares two cores with what it measures.

While tokens come it only stamps the pieces of the body with their time of arrival; HTTP is parsed by httptools, and the
events are read as JSON after the last stream has ended, outside the measured time. What it costs all the same is
measured (`Burst.client_cpu_s`) and printed with the figures.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from bench.workloads import Endpoint

PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class BenchError(Exception):
    """The measurement cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Answer:
    """One finished stream. Times in seconds since the first request of its burst was sent.

    first_s: arrival of the first text. last_s: arrival of the event that ends the answer. events: those with text;
    fewer than completion_tokens where the server puts several tokens into one event. times_s: their arrivals.
    """

    sent_s: float
    first_s: float
    last_s: float
    events: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Burst:
    """Requests sent at once, all ended. client_cpu_s: CPU time of this process between first send and last event."""

    answers: list[Answer]
    wall_s: float
    client_cpu_s: float


class _Exchange(asyncio.Protocol):
    """One request on a connection of its own. Stamps body pieces with their time; `ended` is set exactly once, `heard`
    after `enough` pieces or the end."""

    def __init__(self, request: bytes, enough: int = 0) -> None:
        self.request = request
        self.enough = enough
        self.heard = asyncio.Event()
        self.parser = httptools.HttpResponseParser(self)
        self.headers: dict[str, str] = {}
        self.pieces: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.now = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.now = time.perf_counter()
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self.heard.set()
        if not self.ended.done():
            self.ended.set_exception(BenchError(
                f"the server closed the connection before the answer ended ({exc or 'no reason given'}); see its log"
            ))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        self.pieces.append((self.now, piece))
        if len(self.pieces) == self.enough:
            self.heard.set()

    def on_message_complete(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _encode(base_url: str, path: str, body: dict[str, Any]) -> bytes:
    payload = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: {urlsplit(base_url).netloc}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    ).encode() + payload


async def _run(exchange: _Exchange, base_url: str, timeout_s: float) -> _Exchange:
    address = urlsplit(base_url)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(
                lambda: exchange, address.hostname or "", address.port or 80
            )
            await exchange.ended
    except TimeoutError:
        raise BenchError(f"no whole answer from {base_url} within {timeout_s:g} s; see the server's log") from None
    except OSError as error:
        raise BenchError(f"no connection to {base_url}: {error}") from None
    finally:
        if exchange.transport is not None:
            exchange.transport.abort()
            await exchange.closed.wait()
    return exchange


async def burst(base_url: str, endpoint: Endpoint, bodies: list[dict[str, Any]], timeout_s: float = 600) -> Burst:
    """Sends all bodies at once and reads every stream to its end. Raises BenchError if one of them fails."""
    return await beside(base_url, endpoint, bodies, None, timeout_s=timeout_s)


async def beside(
    base_url: str, endpoint: Endpoint, bodies: list[dict[str, Any]], late: dict[str, Any] | None, *, pieces: int = 8,
    timeout_s: float = 600,
) -> Burst:
    """As `burst`, and the body `late` once every stream of the others has brought `pieces` pieces; its answer is the
    last one."""
    exchanges = [_Exchange(_encode(base_url, PATHS[endpoint], body), pieces) for body in bodies]
    cpu_s, start = time.process_time(), time.perf_counter()
    tasks = [asyncio.create_task(_run(exchange, base_url, timeout_s)) for exchange in exchanges]
    try:
        if late is not None:
            for exchange in exchanges:
                async with asyncio.timeout(timeout_s):
                    await exchange.heard.wait()
            exchanges.append(_Exchange(_encode(base_url, PATHS[endpoint], late)))
            tasks.append(asyncio.create_task(_run(exchanges[-1], base_url, timeout_s)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_s
    return Burst([_answer(exchange, start) for exchange in exchanges], wall_s, cpu_s)


@dataclass(frozen=True)
class Whole:
    """One answer that was not streamed. seconds: from sending to its last byte."""

    seconds: float
    body: dict[str, Any]

    @property
    def prompt_tokens(self) -> int:
        return int(self.body["usage"]["prompt_tokens"])

    @property
    def cached_tokens(self) -> int:
        return int((self.body["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    @property
    def completion_tokens(self) -> int:
        return int(self.body["usage"]["completion_tokens"])


def whole(base_url: str, endpoint: Endpoint, body: dict[str, Any], timeout_s: float = 300) -> Whole:
    """Raises BenchError where anything but a 200 with JSON comes."""
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=timeout_s)
    try:
        payload = json.dumps(body)
        began = time.perf_counter()
        connection.request("POST", PATHS[endpoint], payload, {"content-type": "application/json"})
        reply = connection.getresponse()
        said = reply.read()
        seconds = time.perf_counter() - began
        if reply.status != 200:
            raise BenchError(f"the server answered {reply.status}: {said[:500].decode(errors='replace')}")
        return Whole(seconds, json.loads(said))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(f"no whole answer from {base_url}: {type(error).__name__}: {error}") from None
    finally:
        connection.close()


def _answer(exchange: _Exchange, start: float) -> Answer:
    status = exchange.parser.get_status_code()
    if status != 200:
        said = b"".join(piece for _, piece in exchange.pieces).decode(errors="replace")
        raise BenchError(f"the server answered {status}: {said[:500]}")
    return read_stream(exchange.pieces, sent=exchange.sent, start=start, headers=exchange.headers)


def read_stream(pieces: list[tuple[float, bytes]], *, sent: float, start: float, headers: dict[str, str]) -> Answer:
    """What a body of server-sent events says, chat chunks and completion chunks alike. An event's time is that of the
    piece which ended its line. Raises BenchError for an error event, an answer without text, end or usage."""
    first = last = None
    times: list[float] = []
    texts, usage, fingerprint = [], None, None
    for arrived, payload in _events(pieces):
        if payload == b"[DONE]":
            continue
        event = json.loads(payload)
        if "error" in event:
            raise BenchError(f"the server ended a stream with an error: {event['error']}")
        usage = event.get("usage") or usage
        fingerprint = event.get("system_fingerprint") or fingerprint
        for choice in event.get("choices", []):
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            if text:
                first = arrived if first is None else first
                times.append(arrived - start)
                texts.append(text)
            if choice.get("finish_reason"):
                last = arrived
    if first is None or last is None or usage is None:
        raise BenchError("a stream ended without text, finish_reason or usage; see the server's log")
    return Answer(
        sent_s=sent - start, first_s=first - start, last_s=last - start, events=len(times),
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        completion_tokens=usage["completion_tokens"],
        text="".join(texts), headers=headers, fingerprint=fingerprint,
        times_s=tuple(times),
    )


def _events(pieces: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    found, rest = [], b""
    for arrived, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        found += [(arrived, line[5:].strip()) for line in lines if line.startswith(b"data:")]
    return found
