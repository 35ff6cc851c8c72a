"""R5: clients that go away, in whatever moment, free their row within a second and leave nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from edged.api.app import create_app
from edged.api.server import server_config
from edged.cli.listen import listen_tcp
from edged.daemon.jobs import Jobs
from edged.daemon.responses import Responses
from edged.store import Store
from edged.worker.loop import STATS_INTERVAL_S
from edged.worker.reader import PREPARE_THREADS
from tests.daemon import Daemon
from tests.held import Held, held
from tests.wire import CHAT, COMPLETIONS, Wire, head, text_of
from tests.worker.daemon.rig import Rig, install

pytestmark = pytest.mark.faults

MODELS: dict[str, dict[str, Any]] = {
    #: A long prompt takes seconds here.
    "chewing": {"token_ms": 1, "rows": 4},
    #: Somebody has its only row for the whole test.
    "taken": {"step_ms": 5, "rows": 1, "context": 1 << 20},
    "talking": {"step_ms": 1, "rows": 8},
}
FREE_WITHIN_S = 1.0
AT_ONCE = 20
#: Of the base line; the other share is what an allocator keeps.
RESIDENT_SHARE = 1.05

_numbers = itertools.count(1)


def asked(model: str, *, long: bool = False, **more: Any) -> dict[str, Any]:
    prompt = f"{next(_numbers)} " + ("long " * 500 if long else "short")
    return {"model": model, "prompt": prompt, "max_tokens": 1000, **more}


async def in_the_header(wire: Wire) -> None:
    await wire.send(head(wire.port, CHAT, 100)[:40])


async def in_the_body(wire: Wire) -> None:
    await wire.send(head(wire.port, CHAT, 1000) + b'{"model": "talking", "messages": [')
    await asyncio.sleep(0.005)


async def before_the_answer(wire: Wire) -> None:
    await wire.post(COMPLETIONS, asked("talking"))
    await asyncio.sleep(0.01)
    assert wire.silent()


async def at_once_after_asking(wire: Wire) -> None:
    await wire.post(COMPLETIONS, asked("talking", stream=True))


async def in_the_queue(wire: Wire) -> None:
    await wire.post(COMPLETIONS, asked("taken", stream=True))
    await asyncio.sleep(0.02)
    assert wire.silent()


async def in_prefill(wire: Wire) -> None:
    await wire.post(COMPLETIONS, asked("chewing", long=True, stream=True))
    assert await wire.answered() == 200
    await asyncio.sleep(0.02)
    assert wire.silent()


async def in_mid_stream(wire: Wire) -> None:
    await wire.post(COMPLETIONS, asked("talking", stream=True, n=2))
    assert await wire.answered() == 200
    async with aclosing(wire.events()) as events:
        told = 0
        async for event in events:
            told += bool(text_of(event))
            if told == 6:
                return


MOMENTS = (in_the_header, in_the_body, before_the_answer, at_once_after_asking, in_the_queue, in_prefill, in_mid_stream)


async def abort_many(port: int, count: int) -> None:
    """Every kind in turn, AT_ONCE of them at the same time; every second one goes with a reset."""
    places = asyncio.Semaphore(AT_ONCE)

    async def abort(number: int) -> None:
        async with places:
            wire = await Wire.connect(port)
            try:
                await MOMENTS[number % len(MOMENTS)](wire)
            finally:
                wire.leave(reset=bool(number // len(MOMENTS) % 2))

    await asyncio.gather(*(abort(number) for number in range(count)))


@asynccontextmanager
async def holder(port: int) -> AsyncIterator[Callable[[], int]]:
    """Has the one row of "taken" and reads on; the number of tokens so far."""
    wire = await Wire.connect(port)
    tokens = 0

    async def read() -> None:
        nonlocal tokens
        async for event in wire.events():
            assert "error" not in event, event
            tokens += bool(text_of(event))

    await wire.post(COMPLETIONS, asked("taken", stream=True, max_tokens=1_000_000))
    assert await wire.answered() == 200
    reading = asyncio.create_task(read())
    yield lambda: tokens
    assert not reading.done()
    reading.cancel()
    await asyncio.wait({reading})
    wire.leave()


async def all_rows_start(port: int, model: str) -> None:
    """As many requests as the model has rows are admitted at the same time: nobody else has one."""
    wires = [await Wire.connect(port) for _ in range(MODELS[model]["rows"])]
    try:
        for wire in wires:
            await wire.post(COMPLETIONS, asked(model, stream=True))
        async with asyncio.timeout(FREE_WITHIN_S):
            assert {await wire.answered() for wire in wires} == {200}
    finally:
        for wire in wires:
            wire.leave()


async def reached(condition: Callable[[], Any], within_s: float) -> bool:
    ends = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.02)
    return True


def in_flight(daemon: Daemon) -> dict[str, float]:
    """Of each model, what the metrics say that runs or waits."""
    found = dict.fromkeys(MODELS, 0.0)
    for line in httpx.get(daemon.base_url + "/metrics", headers={"connection": "close"}).text.splitlines():
        if line.startswith(("edged_requests_running{", "edged_requests_waiting{")):
            name, _, value = line.rpartition(" ")
            found[name.split('"')[1]] += float(value)
    return found


async def test_a_thousand_clients_that_go_away_leave_nothing_behind(tmp_path: Path) -> None:
    with Daemon(tmp_path, keep_alive_s=-1, max_queue=1000) as daemon:
        for name, knobs in MODELS.items():
            install(Store(daemon.home), name, **knobs)
        port = int(daemon.listening["port"])
        only_the_holder = {**dict.fromkeys(MODELS, 0.0), "taken": 1.0}
        async with holder(port) as tokens:

            async def round_of(count: int) -> None:
                before = tokens()
                await abort_many(port, count)
                assert await reached(lambda: in_flight(daemon) == only_the_holder, FREE_WITHIN_S), in_flight(daemon)
                for model in ("chewing", "talking"):
                    await all_rows_start(port, model)
                assert tokens() > before

            await round_of(140)
            await reached(lambda: in_flight(daemon) == only_the_holder, FREE_WITHIN_S)
            await asyncio.sleep(0.5)
            processes = [psutil.Process(daemon.pid), *sorted(daemon.workers(), key=lambda one: one.pid)]
            base = [held(process) for process in processes]
            for _ in range(10):
                await round_of(100)
            assert await reached(lambda: not any(map(left_behind, base, map(held, processes))), 2), [
                (one, held(process)) for one, process in zip(base, processes, strict=True)]
            after = [held(process) for process in processes]
            print("resident KiB, before and after:", [(one.resident_bytes >> 10, two.resident_bytes >> 10)
                                    for one, two in zip(base, after, strict=True)])
            assert [one.pid for one in sorted(daemon.workers(), key=lambda one: one.pid)] == [
                process.pid for process in processes[1:]]
            for one, two in zip(base, after, strict=True):
                assert two.resident_bytes <= one.resident_bytes * RESIDENT_SHARE
        await all_rows_start(port, "taken")


def left_behind(before: Held, after: Held) -> bool:
    """A pool's threads start when more of them are wanted at once than before, each once."""
    return (after.files, after.sockets) != (before.files, before.sockets) or not (
        before.threads <= after.threads <= before.threads + PREPARE_THREADS)


class Server(uvicorn.Server):
    """Beside the test, in its event loop; signals stay the test's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(rig: Rig) -> AsyncIterator[int]:
    """The port of rig's router behind HTTP."""
    jobs = Jobs(rig.settings, rig.store, rig.router._catalog, rig.metrics, made=rig.router.activated)
    app = create_app(rig.router, rig.settings, jobs, rig.metrics, rig.store, responses=Responses(rig.settings))
    server, listener = Server(server_config(app, rig.settings)), listen_tcp("127.0.0.1", 0)
    running = asyncio.create_task(server.serve([listener]))
    yield int(listener.getsockname()[1])
    server.should_exit = True
    await running


def rows_in_use(rig: Rig) -> list[int]:
    """What the workers themselves report: running and waiting, of each model."""
    stats = [rig.router._model(rig.store.manifest(name))._seat.stats for name in MODELS]
    return [count for one in stats for count in (one.running, one.waiting)]


async def test_clients_that_go_away_leave_no_task_and_the_workers_know(tmp_path: Path) -> None:
    """The same within this process, where tasks can be counted and the workers' reports be seen."""
    async with Rig(tmp_path, max_queue=1000) as rig:
        for name, knobs in MODELS.items():
            rig.install(name, **knobs)
            await rig.router.load(name)
        async with serving(rig) as port:
            async with holder(port):
                await abort_many(port, 3 * len(MOMENTS))
            assert await reached(lambda: not any(rows_in_use(rig)), FREE_WITHIN_S + STATS_INTERVAL_S)
            await asyncio.sleep(0.2)
            base = asyncio.all_tasks()
            async with holder(port):
                await abort_many(port, 20 * len(MOMENTS))
            # A worker reports when it falls idle, and once a second.
            assert await reached(lambda: not any(rows_in_use(rig)), FREE_WITHIN_S + STATS_INTERVAL_S), rows_in_use(rig)
            assert await reached(lambda: asyncio.all_tasks() == base, FREE_WITHIN_S), asyncio.all_tasks() - base
