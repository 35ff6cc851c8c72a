"""Every type that crosses between daemon and worker. Events of `edged.types` travel in `Events`, one frame a tick."""

from __future__ import annotations

from msgspec import Struct

from edged.types import Event, LoadSpec, ModelInfo, Request, WorkerStats

# daemon → worker

class Load(Struct, frozen=True, tag="load", tag_field="kind"):
    """First frame of every connection."""

    spec: LoadSpec


class Submit(Struct, frozen=True, tag="submit", tag_field="kind"):
    request: Request


class Cancel(Struct, frozen=True, tag="cancel", tag_field="kind"):
    """No event of this request is read any more; its row is to be freed at the next step."""

    id: str


class Pause(Struct, frozen=True, tag="pause", tag_field="kind"):
    """The client reads slowly: stop decoding this request's rows until Resume. Its KV stays."""

    id: str


class Resume(Struct, frozen=True, tag="resume", tag_field="kind"):
    id: str


class Forget(Struct, frozen=True, tag="forget", tag_field="kind"):
    """KV of what was said until now is to serve nobody any more: what is kept is dropped, what runs is not kept."""


ToWorker = Load | Submit | Cancel | Pause | Resume | Forget


# worker → daemon

class Loading(Struct, frozen=True, tag="loading", tag_field="kind"):
    """fraction 0 … 1 of the weights read. Sent at least every 5 s while loading, so that silence means a hang."""

    fraction: float


class Ready(Struct, frozen=True, tag="ready", tag_field="kind"):
    info: ModelInfo


class LoadRefused(Struct, frozen=True, tag="load_refused", tag_field="kind"):
    """The model cannot be loaded; the worker exits with 0 after it. Fields of an EdgedError."""

    status: int
    type: str
    message: str
    code: str | None = None
    retry: bool = False


class Events(Struct, frozen=True, tag="events", tag_field="kind"):
    events: list[Event]


class Stats(Struct, frozen=True, tag="stats", tag_field="kind"):
    stats: WorkerStats


class Lost(Struct, frozen=True, tag="lost", tag_field="kind"):
    """The device that the model ran on is gone; the worker exits with 0 after it, and what it had not answered stays
    unanswered. reason: in words, of the engine."""

    reason: str


FromWorker = Loading | Ready | LoadRefused | Events | Stats | Lost
