"""`python -m bench.soak`: does memory grow? (R14 of the promises)

Thousands of requests of every kind go to `edged serve` with the fake engine: chat and completions, streamed and not,
with mistakes in them, and from clients that go away. After each part all clients stop, and what daemon and worker hold
is read from outside. After the last one it must be what it was after the first one: resident memory within GROWTH, open
files, sockets and threads exactly. The fake engine has no memory of its own to speak of, so nothing hides a leak of
edged's. (Tasks of the event loop cannot be seen from outside; tests/faults/test_aborts.py counts them from inside.)
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import httpx
import psutil
from rich.console import Console
from rich.table import Table

from edged.store import Store
from tests.daemon import Daemon
from tests.held import Held, held
from tests.wire import CHAT, COMPLETIONS, Wire
from tests.worker.daemon.rig import install

FIRST = 500
GROWTH = 0.05
CLIENTS = 8
PARTS = 10
MIB = 1 << 20

out = Console()
app = cyclopts.App(name="python -m bench.soak", help=__doc__, help_format="plaintext", version_flags=[])
_numbers = itertools.count(1)


class SoakError(Exception):
    """The soak cannot go on, or an answer was not what it must be."""


def _chat(**more: Any) -> dict[str, Any]:
    number = next(_numbers)
    words = "long " * (number % 40)
    return {"model": "soak", "messages": [{"role": "user", "content": f"{number} {words}"}], "max_tokens": 12, **more}


def _completion(**more: Any) -> dict[str, Any]:
    return {"model": "soak", "prompt": f"{next(_numbers)} says", "max_tokens": 12, **more}


async def _plain(wire: Wire, path: str, body: dict[str, Any]) -> None:
    await wire.post(path, body)
    if await wire.answered() != 200:
        raise SoakError(f"{wire.status}: {await wire.body()}")
    if not (await wire.body())["usage"]["completion_tokens"]:
        raise SoakError("an answer without tokens")


async def _streamed(wire: Wire, path: str, body: dict[str, Any]) -> None:
    await wire.post(path, {**body, "stream": True})
    if await wire.answered() != 200:
        raise SoakError(f"{wire.status}: {await wire.body()}")
    choices = [choice async for event in wire.events() for choice in event.get("choices", ())]
    if not wire.done or not any(choice["finish_reason"] for choice in choices):
        raise SoakError(f"a stream ended too early, after {choices[-1:]}")


async def _refused(wire: Wire, status: int, body: dict[str, Any] | bytes, **more: str) -> None:
    await wire.post(CHAT, body, **more)
    if await wire.answered() != status:
        raise SoakError(f"{wire.status} where {status} was due: {await wire.body()}")
    await wire.body()


async def _left_in_mid_stream(wire: Wire) -> None:
    await wire.post(COMPLETIONS, _completion(stream=True, max_tokens=2000))
    await wire.answered()
    async with aclosing(wire.events()) as events:
        await anext(events)
        await anext(events)
    wire.leave(reset=True)


async def _left_before_the_answer(wire: Wire) -> None:
    await wire.post(CHAT, _chat(max_tokens=2000))
    await asyncio.sleep(0.003)
    wire.leave()


#: Each in its turn. A client keeps its connection as long as it does not leave.
MIX: tuple[Callable[[Wire], Awaitable[None]], ...] = (
    lambda wire: _plain(wire, CHAT, _chat()),
    lambda wire: _streamed(wire, CHAT, _chat()),
    lambda wire: _plain(wire, COMPLETIONS, _completion(logprobs=3, seed=7)),
    lambda wire: _streamed(wire, COMPLETIONS, _completion(stop=[" the", " a"], prompt=[1, 2, next(_numbers) % 250])),
    lambda wire: _streamed(wire, CHAT, _chat(n=3, logprobs=True, top_logprobs=2)),
    lambda wire: _streamed(wire, CHAT, _chat(stream_options={"include_usage": True})),
    lambda wire: _refused(wire, 404, _chat(model=f"unknown-{next(_numbers)}")),
    lambda wire: _refused(wire, 400, _chat(**{f"unknown_{next(_numbers)}": 1})),
    lambda wire: _refused(wire, 400, _chat(messages=[{"role": "user", "content": "x" * 5000}])),
    lambda wire: _refused(wire, 400, b'{"model": ' + b"[" * 200),
    lambda wire: _refused(wire, 415, _chat(), kind="text/plain"),
    _left_in_mid_stream,
    _left_before_the_answer,
)
LEAVING = (_left_in_mid_stream, _left_before_the_answer)


async def _client(port: int, todo: list[int]) -> None:
    """Takes the next request as long as there is one."""
    wire: Wire | None = None
    while todo:
        kind = MIX[todo.pop() % len(MIX)]
        wire = wire or await Wire.connect(port)
        await kind(wire)
        if kind in LEAVING or wire.headers.get("connection") == "close":
            wire.leave()
            wire = None
    if wire is not None:
        wire.leave()


async def _part(port: int, numbers: range) -> None:
    """All of them, answered or abandoned."""
    todo = list(reversed(numbers))
    await asyncio.gather(*(_client(port, todo) for _ in range(CLIENTS)))


def _quiet(daemon: Daemon, limit_s: float = 5.0) -> None:
    """Returns when nothing runs or waits and the connections of those who left are gone."""
    ends = time.monotonic() + limit_s
    while True:
        status = httpx.get(daemon.base_url + "/edged/v1/status", headers={"connection": "close"}).json()
        if not status["running"] and not status["waiting"]:
            break
        if time.monotonic() > ends:
            raise SoakError(f"{limit_s:g} s after the last client there is work left: {status}")
        time.sleep(0.05)
    time.sleep(0.5)


def _read(daemon: Daemon) -> dict[str, Held]:
    (worker,) = daemon.workers()
    return {"daemon": held(psutil.Process(daemon.pid)), "worker": held(worker)}


def run(daemon: Daemon, requests: int, limit_s: float) -> list[tuple[int, dict[str, Held]]]:
    """What was held after so many requests; the first reading after FIRST. Raises SoakError."""
    port, ends = int(daemon.listening["port"]), time.monotonic() + limit_s
    marks = sorted({FIRST, *(FIRST + (requests - FIRST) * part // PARTS for part in range(1, PARTS + 1))})
    readings = []
    for begin, end in itertools.pairwise([0, *marks]):
        asyncio.run(_part(port, range(begin, end)))
        _quiet(daemon)
        readings.append((end, _read(daemon)))
        out.print(f"{end} requests", style="dim")
        if time.monotonic() > ends and end < requests:
            raise SoakError(f"only {end} of {requests} requests within {limit_s:g} s; give it more with --limit-s")
    return readings


def complaints(first: dict[str, Held], last: dict[str, Held]) -> list[str]:
    found = []
    for name, before in first.items():
        after = last[name]
        growth = after.resident_bytes / before.resident_bytes - 1
        if growth > GROWTH:
            found.append(f"the {name}'s memory grew by {growth:.1%}; {GROWTH:.0%} is the limit")
        found += [f"the {name} has {now} {what}, {then} after {FIRST} requests"
                  for what, then, now in zip(("open files", "sockets", "threads"), before.handles, after.handles,
                                             strict=True) if now > then]
    return found


def show(readings: list[tuple[int, dict[str, Held]]]) -> None:
    table = Table("requests", "process", box=None, header_style="bold")
    for column in ("MiB", "growth", "files", "sockets", "threads"):
        table.add_column(column, justify="right")
    first = readings[0][1]
    for count, reading in readings:
        for name, one in reading.items():
            growth = one.resident_bytes / first[name].resident_bytes - 1
            table.add_row(str(count), name, f"{one.resident_bytes / MIB:.1f}", f"{growth:+.1%}", *map(str, one.handles))
    out.print(table)


@app.default
def main(
    *,
    requests: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gt=FIRST))] = 10_000,
    limit_s: float = 900,
) -> None:
    """Exit code 1 when something grew, or an answer was not what it must be.

    Parameters
    ----------
    requests
        How many in all.
    limit_s
        Give up when it takes longer.
    """
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="edged-soak-") as folder, \
                Daemon(Path(folder), keep_alive_s=-1, max_queue=1000) as daemon:
            install(Store(daemon.home), "soak", context=4096)
            readings = run(daemon, requests, limit_s)
    except SoakError as error:
        out.print(f"soak: {error}", style="bold red", markup=False)
        sys.exit(1)
    show(readings)
    grown = complaints(readings[0][1], readings[-1][1])
    for complaint in grown:
        out.print(f"soak: {complaint}", style="bold red", markup=False)
    out.print(f"{requests} requests in {time.monotonic() - began:.0f} s")
    if grown:
        sys.exit(1)


if __name__ == "__main__":
    app()
