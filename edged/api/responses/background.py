"""Responses that are made while nobody waits: begun at once, followed or fetched later, cancelled where asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from edged.api import sse
from edged.api.answering import Call, captured_header, foreseen, generating, ignored_header
from edged.api.connection import send_json, unless_gone
from edged.api.errors import Headers, known
from edged.api.exchange import Exchange, Services, exchange_of
from edged.api.limits import ClientGone
from edged.api.responses.stream import ResponseStream
from edged.api.responses.wire import RESPONSES
from edged.daemon.background import Run, Transcript
from edged.daemon.refusals import shutting_down
from edged.errors import EdgedError, ShuttingDown


class Making:
    """One response in the background. keep: stores it as queued; `call.ended` stores it as it ended."""

    def __init__(self, call: Call, stream: ResponseStream, keep: Callable[[], Awaitable[None]], services: Services,
                 ) -> None:
        self._call, self._stream, self._keep, self._services = call, stream, keep, services
        self._transcript = Transcript() if call.stream else None

    async def create(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answers with the queued response, or with its stream; either way it goes on without its client. Raises
        ModelNotFound, ShuttingDown and what storing raises; whatever else goes wrong is told by the response."""
        exchange = exchange_of(scope)
        router = self._services.router
        router.status(self._call.model)
        captured = foreseen(self._call, exchange, router)
        headers = [*ignored_header(self._call.ignored), *captured_header(captured=captured)]
        if not router.ready:
            raise shutting_down()
        first = list(self._stream.queued())
        await self._keep()
        self._tell(first)
        queued = self._stream.look()
        run = Run(exchange.caller.client, self._transcript, self._stream.look)
        self._services.responses.background.start(queued.id, run, self._make(run, exchange, captured=captured))
        if self._transcript is not None:
            follow = followed(self._transcript, 0, self._services, headers)
            await follow(scope, receive, send)
        else:
            await send_json(send, queued, headers)

    async def _make(self, run: Run, asked: Exchange, *, captured: bool) -> None:
        """captured: as the client was told, whatever is set meanwhile."""
        stream = self._stream
        own = Exchange(asked.request_id, RESPONSES, asked.received_at, asked.caller, may_capture=captured)
        last: Iterable[Struct] = ()
        try:
            async with generating(self._call, own, self._services) as (served, events):
                stream.serve(served)
                async for prompt, together in events:
                    for event in together:
                        self._tell(stream.chunks(prompt, event))
            run.ending = True
            await self._ended()
            last = stream.closing()
        except asyncio.CancelledError:
            run.ending = True
            if run.cancelled:
                stream.cancelled()
            else:
                last = list(stream.failed(ShuttingDown("edged stopped while this was made; create it again.")))
            await self._ended()
        except Exception as error:
            run.ending = True
            last = list(stream.failed(known(error)))
            await self._ended()
        self._tell(last)

    async def _ended(self) -> None:
        if self._call.ended is not None:
            await self._call.ended()

    def _tell(self, events: Iterable[Struct]) -> None:
        for event in events:
            if self._transcript is not None:
                self._transcript.add(RESPONSES.frame(event))


def followed(transcript: Transcript, number: int, services: Services, headers: Headers = [],  # noqa: B006
             ) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """The events from that number on, for as long as their reader stays."""

    async def follow(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)

        async def write() -> None:
            stream = sse.EventStream(send, RESPONSES, services.settings.heartbeat_s, headers)
            heart = asyncio.create_task(stream.beat())
            last = b""
            try:
                async for piece in transcript.follow(number):
                    await stream.write(piece)
            except EdgedError as error:
                if not stream.started:
                    raise
                exchange.status = error.status
                last = sse.framed(RESPONSES, [RESPONSES.error(error)])
            finally:
                heart.cancel()
                await asyncio.wait({heart})
            await stream.write(last, more=False)

        try:
            await unless_gone(write(), receive)
        except ClientGone:
            exchange.status = ClientGone.status
            if not exchange.started:
                raise

    return follow
