"""Lines that are no tokens (the progress of a pull, a load), as a stream or as its last line alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from litestar.types import Receive, Send
from msgspec import Struct

from edged.api import sse
from edged.api.connection import send_json, unless_gone
from edged.api.errors import Headers, known
from edged.api.exchange import Exchange, Services
from edged.api.fields import header_value
from edged.api.limits import ClientGone


async def tell(lines: AsyncIterator[Struct], exchange: Exchange, services: Services, receive: Receive, send: Send, *,
               stream: bool, ignored: Sequence[str] = ()) -> None:
    """Raises EdgedError where nothing was sent yet; afterwards an error is the last line."""
    headers: Headers = [(b"edged-ignored", header_value(ignored))] if ignored else []

    async def streamed() -> None:
        out = sse.EventStream(send, exchange.wire, services.settings.heartbeat_s, headers)
        heart = asyncio.create_task(out.beat())
        try:
            async for line in lines:
                await out.write(exchange.wire.frame(line))
            last = exchange.wire.done
        except Exception as error:
            if not out.started:
                raise
            failure = known(error)
            exchange.status = failure.status
            last = exchange.wire.frame(exchange.wire.error(failure))
        finally:
            heart.cancel()
            await asyncio.wait({heart})
        await out.write(last, more=False)

    async def whole() -> None:
        last = [line async for line in lines][-1]
        await send_json(send, last, headers)

    try:
        await unless_gone(streamed() if stream else whole(), receive)
    except ClientGone:
        exchange.status = ClientGone.status
        if not exchange.started:
            raise
