"""How /v1/responses frames its stream: every event has a name, and the last one is response.completed, .incomplete or
.failed; no [DONE] follows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from edged.errors import EdgedError

_encoder = msgspec.json.Encoder()


class Detail(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    error: Detail


class ErrorEvent(Struct, frozen=True, tag="error", tag_field="type"):
    """In a stream in which no response was begun yet. `error` repeats it where the official clients look, which then
    raise."""

    sequence_number: int
    message: str
    code: str | None
    param: str | None
    error: Detail


class ResponsesWire:
    content_type = b"text/event-stream; charset=utf-8"
    heartbeat = b": still working\n\n"
    done = b""
    headers: Sequence[tuple[bytes, bytes]] = ()

    def frame(self, chunk: Struct) -> bytes:
        if isinstance(chunk, ErrorBody):
            told = chunk.error
            chunk = ErrorEvent(0, told.message, told.code, told.param, told)
        return b"event: %b\ndata: %b\n\n" % (str(chunk.__struct_config__.tag).encode(), _encoder.encode(chunk))

    def error(self, error: EdgedError) -> Struct:
        message, param = in_own_names(error)
        return ErrorBody(Detail(message, error.type, param, error.code))


RESPONSES = ResponsesWire()


_NAMES = {"messages": "input", "reasoning_effort": "reasoning.effort", "logprobs": "top_logprobs"}


def in_own_names(error: EdgedError) -> tuple[str, str | None]:
    """Message and param. The layers below speak of chat's fields."""
    if error.param is None:
        return error.message, None
    name = _NAMES.get(error.param, error.param.replace("].function.", "]."))
    return error.message.replace(f"`{error.param}`", f"`{name}`"), name
