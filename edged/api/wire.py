"""How an API family frames the chunks of a stream, and what its errors look like. One module for each family; which
one a path belongs to is asked before any route exists, so that a refused request is refused in its client's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from edged.api.anthropic.wire import Anthropic
from edged.api.ollama.wire import OLLAMA
from edged.api.responses.wire import RESPONSES
from edged.errors import EdgedError

_encoder = msgspec.json.Encoder()


class Wire(Protocol):
    """content_type: of a stream. heartbeat: what clients pass over, sent while there is nothing to tell. done: ends a
    stream that went well. headers: of every answer, beside x-request-id."""

    content_type: bytes
    heartbeat: bytes
    done: bytes
    headers: Sequence[tuple[bytes, bytes]]

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
    headers: Sequence[tuple[bytes, bytes]] = ()

    def frame(self, chunk: Struct) -> bytes:
        return b"data: %b\n\n" % _encoder.encode(chunk)

    def error(self, error: EdgedError) -> Struct:
        return Body(Detail(error.message, error.type, error.param, error.code))


OPENAI = OpenAI()


def wire_of(path: str, request_id: str) -> Wire:
    """That of one request."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Anthropic(request_id)
    if path == "/v1/responses" or path.startswith("/v1/responses/"):
        return RESPONSES
    if path.startswith("/api/"):
        return OLLAMA
    return OPENAI
