"""The only place where an error becomes a response. Everything raised anywhere below a route passes `known`, which
turns Litestar's own exceptions and unexpected ones into the error tree, and leaves as `rendered`."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import structlog
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.exceptions import NotFoundException as RouteNotFound

from edged.api.wire import OPENAI, Wire
from edged.errors import EdgedError, Internal, InvalidRequest, NotFound

log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()

Headers = list[tuple[bytes, bytes]]


class MethodNotAllowed(InvalidRequest):
    status = 405
    default_code = "method_not_allowed"


class Rendered(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def known(error: BaseException, *, method: str = "", path: str = "") -> EdgedError:
    """The error as one of the tree. What edged did not raise on purpose is logged with its traceback, and the client
    learns nothing of it but the request id."""
    if isinstance(error, EdgedError):
        return error
    if isinstance(error, MethodNotAllowedException):
        return MethodNotAllowed(f"{path[:200]} does not take {method}.")
    if isinstance(error, RouteNotFound):
        return NotFound(f"There is no {method} {path[:200]} here. The OpenAI routes begin with /v1/.")
    if isinstance(error, HTTPException) and 400 <= error.status_code < 500:
        return InvalidRequest(error.detail)
    log.error("unexpected error", exc_info=error)
    return Internal("Something went wrong inside edged. Its log has the details under this answer's x-request-id.")


def rendered(error: EdgedError, wire: Wire = OPENAI) -> Rendered:
    """Retry-After in whole seconds, rounded up. x-should-retry: false where the official clients would retry the
    status on their own (408, 409, 429, 5xx) and that cannot help."""
    body = _encoder.encode(wire.error(error))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if not error.retry and (error.status >= 500 or error.status in (408, 409, 429)):
        headers.append((b"x-should-retry", b"false"))
    return Rendered(error.status, headers, body)
