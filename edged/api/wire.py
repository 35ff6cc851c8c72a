"""How an API family frames the chunks of a stream, and what its errors look like. One module for each family; which
one a path belongs to is asked before any route exists, so that a refused request is refused in its client's words."""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import Struct

from edged.errors import EdgedError

_encoder = msgspec.json.Encoder()


class Wire(Protocol):
    """content_type: of a stream. heartbeat: what clients pass over, sent while there is nothing to tell. done: ends a
    stream that went well."""

    content_type: bytes
    heartbeat: bytes
    done: bytes

    def frame(self, chunk: Struct) -> bytes:
        """One chunk of a stream."""
        ...

    def error(self, error: EdgedError) -> Struct:
        """As the body of a response, and as a chunk of a stream that has begun."""
        ...


class Detail(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class Body(Struct, frozen=True):
    error: Detail


class OpenAI:
    content_type = b"text/event-stream; charset=utf-8"
    heartbeat = b": still working\n\n"
    done = b"data: [DONE]\n\n"

    def frame(self, chunk: Struct) -> bytes:
        return b"data: %b\n\n" % _encoder.encode(chunk)

    def error(self, error: EdgedError) -> Struct:
        return Body(Detail(error.message, error.type, error.param, error.code))


OPENAI = OpenAI()


def wire_of(path: str) -> Wire:
    return OPENAI
