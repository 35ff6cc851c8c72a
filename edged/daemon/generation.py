"""One accepted request, from its acceptance to its one end: the seam between the router and the API.

Ownership: the model that runs the request feeds it (`begin`, `feed`, `end`); the API reads it. A client that reads
slowly fills this buffer, and the buffer pauses that one row in the worker: memory stays bounded and nobody else waits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto
from typing import Protocol

import msgspec

from edged.daemon.recording import Recording
from edged.daemon.status import Served
from edged.errors import EdgedError
from edged.types import Event, Finished, GenerateRequest, Request

#: Buffered events at which the row is paused, and at which it goes on. Events already under way still arrive.
HIGH_MARK = 256
LOW_MARK = 64


class Phase(Enum):
    """WAITING: in the daemon. SUBMITTED: sent to a worker. STARTED: admitted there, may have had an effect."""

    WAITING = auto()
    SUBMITTED = auto()
    STARTED = auto()
    ENDED = auto()


class Runner(Protocol):
    """What a request may ask of the model that runs it."""

    def pause(self, generation: Generation) -> None: ...
    def resume(self, generation: Generation) -> None: ...
    def cancel(self, generation: Generation) -> None: ...


#: Of a request that named no version: told how it ended, unless its client gave it up.
Routed = Callable[["Generation", EdgedError | None], None]


def untold(generation: Generation, error: EdgedError | None) -> None:
    """A `Routed` for what nobody counts."""


def content_hash(request: Request) -> bytes:
    """Identity of what was asked: the same for a request sent again by whoever, under whatever id."""
    asked = msgspec.structs.replace(request, id="", client="")
    if isinstance(asked, GenerateRequest):
        asked = msgspec.structs.replace(asked, cache_scope="", capture=True)
    return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()


class Generation:
    """Iterate for its events: Started, Delta…, one ChoiceEnd a choice, Finished; of embeddings Started, Embedded…,
    Finished. Raises EdgedError where it failed. `more` gives those that came together with the last one.

    One consumer. Whoever stops reading early calls `cancel`; after that the iterator ends.
    """

    def __init__(self, request: Request, ticket: int, runner: Runner, accepted_at: float, *, cold: bool = False,
                 routed: Routed | None = None) -> None:
        """cold: accepted while its model was not ready. routed: see `Routed`."""
        self.request = request
        self.cold, self.routed = cold, routed
        self.id = request.id
        #: Order of arrival among all requests of the daemon.
        self.ticket = ticket
        self.accepted_at = accepted_at
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        #: Tokens that came after the first ones.
        self.later_tokens = 0
        self.phase = Phase.WAITING
        #: Deaths of workers that it outlived because it had not started.
        self.moves = 0
        #: Done once a worker has the request, or raises why none will.
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Its answer is captured, if it ends well; anew for each worker that it is sent to.
        self.recording: Recording | None = None
        self._served: Served | None = None
        self._runner = runner
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._error: EdgedError | None = None
        self._given_up: EdgedError | None = None
        self._finished = False
        self._paused = False

    @property
    def movable(self) -> bool:
        """Another version of the model may answer it: it named none, and nothing was told of one yet."""
        return self.routed is not None and self._served is None

    @property
    def served(self) -> Served:
        if self._served is None:
            raise RuntimeError("no worker has this request yet")
        return self._served

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self.phase is Phase.ENDED:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        if self._paused:
            self._resume_if_low()
        return event

    def more(self) -> list[Event]:
        """What is there already, at most LOW_MARK events, without waiting."""
        if not self._events:
            return []
        taken = [self._events.popleft() for _ in range(min(len(self._events), LOW_MARK))]
        if self._paused:
            self._resume_if_low()
        return taken

    def _resume_if_low(self) -> None:
        if len(self._events) <= LOW_MARK and self.phase is not Phase.ENDED:
            self._paused = False
            self._runner.resume(self)

    async def taken(self) -> Generation:
        """Itself, once a worker has it. Cancel the call to take the request back. Raises why none will."""
        try:
            await self.accepted
        except asyncio.CancelledError:
            await self.cancel()
            raise
        return self

    async def cancel(self, why: EdgedError | None = None) -> None:
        """Idempotent; frees the row at the worker's next step. why: it took too long; None: its client is gone."""
        if self.phase is not Phase.ENDED:
            self._given_up = why
            self._runner.cancel(self)
        if self.accepted.done() and not self.accepted.cancelled():
            # An error that came in the same moment has nobody to read it.
            self.accepted.exception()
        self._events.clear()
        self._error = None
        self._arrived.set()

    # What follows is for the model that runs it.

    def move_to(self, runner: Runner) -> None:
        """Only while it is movable and waits."""
        self._runner = runner

    def begin(self, served: Served, recording: Recording | None = None) -> None:
        """Sent to a worker: the first one, or a fresh one after a death it had only waited through."""
        self.phase = Phase.SUBMITTED
        self._served = served
        self.recording = recording
        if not self.accepted.done():
            self.accepted.set_result(None)

    def requeue(self) -> None:
        self.phase = Phase.WAITING
        self.moves += 1

    def feed(self, event: Event) -> None:
        self._finished = isinstance(event, Finished)
        if self.recording is not None:
            self.recording.add(event)
        self._events.append(event)
        self._arrived.set()
        if not self._paused and len(self._events) >= HIGH_MARK:
            self._paused = True
            self._runner.pause(self)

    def end(self, error: EdgedError | None = None) -> None:
        """Once only. Events already buffered are still read before the error."""
        self.phase = Phase.ENDED
        failed = error or self._given_up
        if self.routed is not None and (self._finished or failed is not None):
            self.routed(self, failed)
        if self.accepted.done():
            self._error = error
        elif error is None:
            self.accepted.cancel()
        else:
            self.accepted.set_exception(error)
        self._arrived.set()
