"""One stream of events, rendered in chunks or collected: both are fed the same events in the same order, so that
streamed and plain text cannot differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from litestar.types import Send

from edged.api.errors import Headers
from edged.api.wire import Wire
from edged.errors import EdgedError
from edged.types import Event

_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Streamed(Protocol):
    """`prompt` is the number of the prompt within the request; chat has one."""

    def chunks(self, prompt: int, event: Event) -> Iterable[msgspec.Struct | bytes]:
        """bytes: a chunk that is framed already, for the one wire that it is for."""
        ...

    def closing(self) -> Iterable[msgspec.Struct]: ...

    def failed(self, error: EdgedError) -> Iterable[msgspec.Struct]:
        """Instead of what is still to come."""
        ...


class Collected(Protocol):
    def add(self, prompt: int, event: Event) -> None: ...

    def answer(self) -> msgspec.Struct: ...


def framed(wire: Wire, chunks: Iterable[msgspec.Struct | bytes]) -> bytes:
    return b"".join([chunk if isinstance(chunk, bytes) else wire.frame(chunk) for chunk in chunks])


class EventStream:
    """A 200 whose headers are held until there is something to tell, and heartbeats while there is nothing.

    `beat` runs beside the writer; the lock keeps the headers before everything else. A body goes out whole, so what
    comes after the headers needs no lock.
    """

    def __init__(self, send: Send, wire: Wire, heartbeat_s: float, headers: Headers,
                 early: Callable[[], Headers] = list) -> None:
        """early: more headers, asked for where a heartbeat has to open the stream."""
        self._send = send
        self._wire = wire
        self._heartbeat_s = heartbeat_s
        self._headers, self._early = headers, early
        self._lock = asyncio.Lock()
        self._silent = True
        self._opened = False
        self.started = False

    async def open(self, headers: Headers = []) -> None:  # noqa: B006
        async with self._lock:
            if not self.started:
                self.started = True
                told = [(b"content-type", self._wire.content_type), *_HEADERS, *self._headers, *headers]
                await self._send({"type": "http.response.start", "status": 200, "headers": told})
                self._opened = True

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Returns when the transport wants more: a client that reads slowly holds its writer here."""
        self._silent = False
        if not self._opened:
            await self.open()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def beat(self) -> None:
        """For ever: a heartbeat after each heartbeat_s in which nothing was written."""
        while True:
            self._silent = True
            await asyncio.sleep(self._heartbeat_s)
            if self._silent:
                if not self.started:
                    await self.open(self._early())
                await self.write(self._wire.heartbeat)
