"""R15: fifty clients that read ten bytes a second pause their own rows, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from edged.store import Store
from tests.daemon import Daemon
from tests.held import held
from tests.wire import COMPLETIONS, Wire, head, text_of
from tests.worker.daemon.rig import install

pytestmark = pytest.mark.faults

READERS = 50
BYTES_A_SECOND = 10
TOKENS = 150
MIB = 1 << 20
#: What one reader may cost the daemon: its unread events, of which each holds twenty alternatives here.
BUFFER_LIMIT_BYTES = 3 * MIB


class SlowReader:
    """Asks for an answer without end, with large events, so that its buffers fill soon."""

    def __init__(self, port: int, number: int) -> None:
        body = json.dumps({"model": "crowd", "prompt": f"reader {number}", "stream": True, "max_tokens": 15_000,
                           "logprobs": 5}).encode()
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.connect(("127.0.0.1", port))
        self._sock.sendall(head(port, COMPLETIONS, len(body)) + body)
        self._sock.setblocking(False)
        self.read_bytes = 0

    def read(self) -> None:
        try:
            self.read_bytes += len(self._sock.recv(BYTES_A_SECOND))
        except BlockingIOError:
            return

    def close(self) -> None:
        self._sock.close()


@asynccontextmanager
async def slow_readers(port: int) -> AsyncIterator[list[SlowReader]]:
    readers = [SlowReader(port, number) for number in range(READERS)]

    async def read_on() -> None:
        while True:
            await asyncio.sleep(1)
            for reader in readers:
                reader.read()

    reading = asyncio.create_task(read_on())
    try:
        yield readers
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        for reader in readers:
            reader.close()


def status(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{daemon.base_url}/edged/v1/models/crowd").json()
    return found


async def standstill(daemon: Daemon, within_s: float) -> int:
    """Returns the KV in use once it does not grow any more."""
    ends, used = time.monotonic() + within_s, 0
    while time.monotonic() < ends:
        await asyncio.sleep(1.5)
        before, used = used, int(status(daemon)["kv_used_tokens"])
        if used == before > 0:
            return used
    raise AssertionError("rows went on though nobody read")


async def normal(port: int) -> tuple[str, float, float]:
    """(text, seconds, the longest wait for an event) of a client that reads as fast as it can."""
    wire, began, last, gap, text = await Wire.connect(port), time.monotonic(), time.monotonic(), 0.0, ""
    await wire.post(COMPLETIONS, {"model": "crowd", "prompt": "normal", "temperature": 0, "max_tokens": TOKENS,
                                  "stream": True})
    assert await wire.answered() == 200
    async for event in wire.events():
        gap, last = max(gap, time.monotonic() - last), time.monotonic()
        text += text_of(event)
    wire.leave()
    assert wire.done
    return text, time.monotonic() - began, gap


async def test_fifty_clients_that_hardly_read_cost_only_themselves(tmp_path: Path) -> None:
    with Daemon(tmp_path, keep_alive_s=-1) as daemon:
        install(Store(daemon.home), "crowd", rows=64, step_ms=5)
        port = int(daemon.listening["port"])
        await normal(port)
        expected, alone_s, _ = await normal(port)
        process = psutil.Process(daemon.pid)
        before = held(process)
        async with slow_readers(port) as readers:
            while status(daemon)["running"] < READERS:
                text, _, _ = await normal(port)
                assert text == expected
            used = await standstill(daemon, 60)
            full = held(process)
            for text, seconds, gap in [await normal(port) for _ in range(3)]:
                assert text == expected
                assert seconds < 2 * alone_s + 1
                assert gap < 1
            await asyncio.sleep(3)
            assert all(reader.read_bytes > 0 for reader in readers)
            assert status(daemon)["running"] == READERS
            grown = full.resident_bytes - before.resident_bytes
            print(f"alone {alone_s:.2f} s; {grown / READERS / MIB:.2f} MiB a reader, {used} tokens")
            assert grown < READERS * BUFFER_LIMIT_BYTES
            assert held(process).resident_bytes - full.resident_bytes < 8 * MIB
            assert status(daemon)["kv_used_tokens"] < used + 5 * TOKENS
        # Beside other work fifty ends take their time.
        ends = time.monotonic() + 10
        while status(daemon)["running"]:
            assert time.monotonic() < ends, "rows were not free"
            await asyncio.sleep(0.02)
