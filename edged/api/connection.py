"""The client at the other end: work goes on only while it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
from litestar.types import Receive, Send
from msgspec import Struct

from edged.api.errors import Headers
from edged.api.limits import ClientGone

_encoder = msgspec.json.Encoder()


async def unless_gone(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Runs `work`, cancels it at once when the client closes the connection, and returns only when it has ended.

    The request's body was read before. Raises ClientGone, and whatever `work` raises.
    """
    working = asyncio.create_task(work)
    going = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        abandoned = not working.done()
        working.cancel()
        going.cancel()
        await asyncio.wait({working, going})
    if abandoned and (working.cancelled() or working.exception() is not None):
        raise ClientGone("The client closed the connection before its answer.")
    working.result()


async def send_json(send: Send, value: Struct, headers: Headers = []) -> None:  # noqa: B006
    body = _encoder.encode(value)
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": told})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
