"""Work for clients that do not wait: one task for each answer, which they may watch, come back to, or cancel.

A task ends with its own last words (done, failed, cancelled) in its `Transcript`; nothing is raised to anyone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from edged.errors import Conflict

#: Of one transcript; older pieces go.
TRANSCRIPT_BYTES = 2 << 20
#: Transcripts of ended work that can still be followed.
LAST_ENDED = 8
#: After the drain, what still runs has this long to say its last words.
CLOSE_S = 5.0


class Transcript:
    """Numbered pieces of a stream, from 0, for any number of readers at any pace. Bounded: who reads too late is told
    so."""

    def __init__(self, limit_bytes: int = TRANSCRIPT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: deque[bytes] = deque()
        self._first = 0
        self._bytes = 0
        self._ended = False
        self._more = asyncio.Event()

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._bytes += len(piece)
        while self._bytes > self._limit_bytes and len(self._pieces) > 1:
            self._bytes -= len(self._pieces.popleft())
            self._first += 1
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._more = self._more, asyncio.Event()
        waiting.set()

    async def follow(self, next_number: int) -> AsyncGenerator[bytes]:
        """The pieces from that number on, as they come, until the end. Raises Conflict where they are gone."""
        while True:
            if next_number < self._first:
                raise Conflict(f"The events before number {self._first} are no longer held; get the response without "
                               "stream.", param="starting_after")
            if next_number - self._first < len(self._pieces):
                yield self._pieces[next_number - self._first]
                next_number += 1
            elif self._ended:
                return
            else:
                await self._more.wait()


class Run:
    """cancelled: somebody asked for its end; else a cancelled task means that the daemon stops. ending: it has its
    answer and only says its last words, in which nobody interrupts it."""

    def __init__(self, client: str, transcript: Transcript | None, look: Callable[[], Any]) -> None:
        """look: at the answer so far, in the words of whoever started it."""
        self.client, self.transcript, self.look = client, transcript, look
        self.cancelled = False
        self.ending = False
        self.task: asyncio.Task[None] | None = None


class Background:
    """Owner of all runs, by the id of what they make."""

    def __init__(self) -> None:
        self._running: dict[str, Run] = {}
        self._ended: OrderedDict[str, Run] = OrderedDict()

    def start(self, identity: str, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """`work` must not raise."""
        self._running[identity] = run
        run.task = asyncio.create_task(work, name=identity)
        run.task.add_done_callback(lambda _: self._end(identity))

    def running(self, identity: str, client: str) -> Run | None:
        run = self._running.get(identity)
        return run if run is not None and run.client == client else None

    def transcript(self, identity: str, client: str) -> Transcript | None:
        """Of one that runs, or that ended a little while ago."""
        run = self._running.get(identity) or self._ended.get(identity)
        return run.transcript if run is not None and run.client == client else None

    async def cancel(self, run: Run) -> None:
        """Returns once it has ended."""
        run.cancelled = True
        await self._stop([run])

    async def close(self) -> None:
        runs = list(self._running.values())
        tasks = [run.task for run in runs if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
            await self._stop(runs)

    async def _stop(self, runs: list[Run]) -> None:
        tasks = [(run, run.task) for run in runs if run.task is not None]
        for run, task in tasks:
            if not run.ending:
                task.cancel()
        await asyncio.wait([task for _, task in tasks])

    def _end(self, identity: str) -> None:
        run = self._running.pop(identity)
        if run.transcript is not None:
            run.transcript.end()
            self._ended[identity] = run
            if len(self._ended) > LAST_ENDED:
                self._ended.popitem(last=False)
