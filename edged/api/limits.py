"""What a request may cost before anything is decided about it: kind, size and time of its body, depth of its JSON.

The whole body is read here and nowhere else, so that the limits hold for every route.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Set
from typing import Any, NamedTuple

import msgspec
from litestar.types import HTTPScope, Receive

from edged.errors import HeaderTooLarge, InvalidRequest, RequestTooLarge, UnsupportedMediaType
from edged.settings import Settings


class Limits(NamedTuple):
    header_bytes: int
    body_bytes: int
    json_depth: int
    receive_timeout_s: float


def limits_of(settings: Settings) -> Limits:
    return Limits(settings.max_header_bytes, settings.max_body_bytes, settings.max_json_depth,
                  settings.receive_timeout_s)


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
#: Values in one body: lists, objects, and what is in them. Python takes some 60 bytes for each.
MAX_VALUES = 500_000
_decoder = msgspec.json.Decoder()


class ClientGone(InvalidRequest):
    """The client closed the connection; there is no one left to answer. The status is for log and metrics."""

    status = 499
    default_code = "client_gone"


def header(scope: HTTPScope, name: bytes) -> str | None:
    """The value of the first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def check_headers(scope: HTTPScope, max_bytes: int) -> None:
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    size += len(scope["raw_path"]) + len(scope["query_string"])
    if size > max_bytes:
        raise HeaderTooLarge(f"The request's headers take {size} bytes; at most {max_bytes} are taken.")


#: Content types that a body of JSON may be sent under.
JSON_KINDS = frozenset({"application/json"})


def _check_kind(scope: HTTPScope, kinds: Set[str]) -> None:
    kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise UnsupportedMediaType("Send JSON with the header `Content-Type: application/json`.")
    encoding = (header(scope, b"content-encoding") or "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType("Compressed bodies are not taken; send the JSON as it is, without Content-Encoding.")


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request's body is larger than {max_bytes} bytes. Send less, or raise max_body_bytes in the settings."
    )


async def read_body(scope: HTTPScope, receive: Receive, limits: Limits, kinds: Set[str] = JSON_KINDS) -> bytes:
    """The body as sent. Never holds more than the limit and one read of the server's.

    Raises UnsupportedMediaType, RequestTooLarge, InvalidRequest (too slow) and ClientGone.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _too_large(limits.body_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.receive_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("The client closed the connection before its request was whole.")
                if message["type"] != "http.request":
                    continue
                if message["body"] and not body:
                    _check_kind(scope, kinds)
                body += message["body"]
                if len(body) > limits.body_bytes:
                    raise _too_large(limits.body_bytes)
                if not message["more_body"]:
                    break
    except TimeoutError:
        raise InvalidRequest(
            f"The request's body did not arrive within {limits.receive_timeout_s:g} s.", code="request_timeout"
        ) from None
    return bytes(body)


def check_shape(body: bytes, max_depth: int) -> None:
    """Bounds what parsing may cost, without parsing: each round takes the innermost pairs of brackets away.

    Linear in the body for each round, and a round that finds no pair is the last. Brackets that do not pair count as
    depth; where they are few the parser says what is wrong with them. Raises InvalidRequest.
    """
    few_brackets = body.count(b"[") + body.count(b"{") <= max_depth
    if few_brackets and len(body) < 2 * MAX_VALUES:
        return
    # Every string opens with a quote that no backslash precedes: so many strings at most, keys included.
    strings = body.count(b'"') - body.count(b'\\"')
    if strings > 4 * MAX_VALUES:
        raise _too_many()
    structure = _STRING.sub(b"", body).translate(_ONE_KIND, _NOT_STRUCTURE)
    brackets = structure.translate(None, b",")
    if len(structure) - len(brackets) // 2 > MAX_VALUES:
        raise _too_many()
    for _ in range(max_depth):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    if b"[]" in brackets or brackets.count(b"[") > max_depth:
        raise InvalidRequest(f"The JSON nests deeper than {max_depth} levels.", code="invalid_json")


def _too_many() -> InvalidRequest:
    return InvalidRequest(f"The JSON holds more than {MAX_VALUES} values; send less at once.", code="invalid_json")


def parse_json(body: bytes, max_depth: int) -> dict[str, Any]:
    """Strict UTF-8 and JSON (no NaN, no Infinity, no number out of a double's range), an object at the top."""
    if not body:
        raise InvalidRequest("The request has no body; send a JSON object.", code="invalid_json")
    check_shape(body, max_depth)
    try:
        body.decode("utf-8")
        value = _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid UTF-8 (byte {error.start}); encode the JSON as UTF-8.", code="invalid_json"
        ) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return value


async def read_json(
    scope: HTTPScope, receive: Receive, limits: Limits, kinds: Set[str] = JSON_KINDS
) -> dict[str, Any]:
    return parse_json(await read_body(scope, receive, limits, kinds), limits.json_depth)
