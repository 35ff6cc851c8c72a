"""How Anthropic frames a stream and tells an error: each event is named by its `type`, and the request's id stands in
the header `request-id` and in the body of errors. Source: the types of package `anthropic` 2.14."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from edged.errors import ContextLengthExceeded, EdgedError

_encoder = msgspec.json.Encoder()

#: The others of 4xx are invalid_request_error, those of 5xx api_error.
_TYPES: Mapping[int, str] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 504: "timeout_error",
}


#: Fields of chat that the worker's refusals name, and what they are called here.
_NAMES = (
    (re.compile(r"\breasoning_effort\b"), "output_config.effort"),
    (re.compile(r"\breasoning_budget\b"), "thinking.budget_tokens"),
    (re.compile(r"(tools\[\d+\])\.function\.parameters\b"), r"\1.input_schema"),
)


class Details(Struct, frozen=True, omit_defaults=True):
    """error_code: edged's `code`, where the official client reads one (`error.error_code`)."""

    error_code: str | None = None
    param: str | None = None


class Detail(Struct, frozen=True, omit_defaults=True):
    type: str
    message: str
    details: Details | None = None


class ErrorBody(Struct, frozen=True, tag="error", tag_field="type"):
    error: Detail
    request_id: str


class Anthropic:
    """Of one request, whose id its errors repeat."""

    content_type = b"text/event-stream; charset=utf-8"
    heartbeat = b'event: ping\ndata: {"type":"ping"}\n\n'
    #: The chunk message_stop is the end.
    done = b""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.headers: Sequence[tuple[bytes, bytes]] = [(b"request-id", request_id.encode())]

    def frame(self, chunk: Struct) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (str(chunk.__struct_config__.tag).encode(), _encoder.encode(chunk))

    def error(self, error: EdgedError) -> Struct:
        message, param = _here(error.message), error.param and _here(error.param)
        if error.code == ContextLengthExceeded.default_code:
            # Programs that shorten a conversation by themselves wait for these words.
            message = f"prompt is too long: {message}"
        details = Details(error.code, param) if error.code or param else None
        return ErrorBody(Detail(_type(error), message, details), self._request_id)


def _here(said: str) -> str:
    for theirs, ours in _NAMES:
        said = theirs.sub(ours, said)
    return said


def _type(error: EdgedError) -> str:
    if error.status == 503 and error.retry:
        return "overloaded_error"
    return _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
