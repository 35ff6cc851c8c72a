"""From a parsed call to its answer: accept, render, and end the generation exactly once, whatever happens.

    accepted ──▶ events ──▶ chunks of a stream or one JSON body
A client that goes away cancels the task that answers it, in the queue, while loading, in prefill and in mid-stream
alike; the task's `finally` frees the rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from litestar.types import Receive, Send

from edged.api import sse
from edged.api.connection import send_json, unless_gone
from edged.api.errors import Headers, known
from edged.api.exchange import CAPTURE_HEADER, Exchange, Services
from edged.api.fields import header_value
from edged.api.limits import ClientGone
from edged.errors import DeadlineExceeded, EdgedError
from edged.types import ChatPrompt, Event, GenerateRequest, Rendered, Request, Started

if TYPE_CHECKING:
    from edged.daemon.generation import Generation
    from edged.daemon.router import Router
    from edged.daemon.status import Served

@dataclass(frozen=True, slots=True)
class Call:
    """What an endpoint understood of its body. `requests`: one for each prompt. The two renderers are made once the
    worker that answers is known; streamed is None where the endpoint has no streams. ended: awaited once the renderer
    has had all events, or has said in its stream what failed, and before the last of it is sent; what it raises is the
    answer's failure."""

    model: str
    requests: Sequence[Request]
    stream: bool
    streamed: Callable[[Served], sse.Streamed] | None
    collected: Callable[[Served], sse.Collected]
    timeout_s: float | None = None
    keep_alive_s: float | None = None
    ignored: tuple[str, ...] = ()
    ended: Callable[[], Awaitable[None]] | None = None


async def answer(call: Call, exchange: Exchange, services: Services, receive: Receive, send: Send) -> None:
    """Raises EdgedError where no byte of the answer was sent yet; afterwards an error is said in the stream."""
    way = _stream if call.stream else _collect
    try:
        await unless_gone(way(call, exchange, services, send), receive)
    except ClientGone:
        exchange.status = ClientGone.status
        if not exchange.started:
            raise


async def _collect(call: Call, exchange: Exchange, services: Services, send: Send) -> None:
    told: Headers = []
    async with generating(call, exchange, services) as (served, events):
        collected = call.collected(served)
        async for prompt, together in events:
            for event in together:
                if isinstance(event, (Started, Rendered)):
                    told = told or _told(served, exchange)
                collected.add(prompt, event)
    if call.ended is not None:
        await call.ended()
    await send_json(send, collected.answer(), [*ignored_header(call.ignored), *told])


async def _stream(call: Call, exchange: Exchange, services: Services, send: Send) -> None:
    wire = exchange.wire

    def early() -> Headers:
        exchange.captured = exchange.captured or foreseen(call, exchange, services.router)
        return captured_header(captured=exchange.captured)

    stream = sse.EventStream(send, wire, services.settings.heartbeat_s, ignored_header(call.ignored), early)
    heart = asyncio.create_task(stream.beat())
    streamed: sse.Streamed | None = None
    try:
        async with generating(call, exchange, services) as (served, events):
            assert call.streamed is not None
            streamed = call.streamed(served)
            async for prompt, together in events:
                body = b""
                for event in together:
                    if isinstance(event, Started):
                        await stream.open(_told(served, exchange))
                    body += sse.framed(wire, streamed.chunks(prompt, event))
                if body:
                    await stream.write(body)
        if call.ended is not None:
            await call.ended()
        last = sse.framed(wire, streamed.closing()) + wire.done
    except Exception as error:
        if not stream.started:
            raise
        failure = known(error)
        exchange.status = failure.status
        last = sse.framed(wire, streamed.failed(failure) if streamed is not None else [wire.error(failure)])
        if streamed is not None and call.ended is not None:
            await call.ended()
    finally:
        heart.cancel()
        await asyncio.wait({heart})
    await stream.write(last, more=False)


@asynccontextmanager
async def generating(
    call: Call, exchange: Exchange, services: Services
) -> AsyncIterator[tuple[Served, AsyncIterator[tuple[int, list[Event]]]]]:
    """The events of all prompts with the prompt's number, those together that are there at once; ended in every case.
    Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(call.timeout_s) as deadline:
            generations: list[Generation] = []
            try:
                scope = exchange.caller.client if services.settings.prefix_sharing == "key" else ""
                await _accept(call, scope, services.router, generations, may_capture=exchange.may_capture)
                served = generations[0].served
                exchange.model = served.name
                if exchange.started and not exchange.captured:
                    # A heartbeat went out first, and did not say it: nobody is captured without a word.
                    for generation in generations:
                        generation.recording = None
                exchange.captured = generations[0].recording is not None
                async with aclosing(_merged(generations)) as events:
                    yield served, events
            finally:
                late = _late(call) if deadline.expired() else None
                for generation in generations:
                    await generation.cancel(late)
    except EdgedError:
        exchange.model = exchange.model or _installed_name(call.model, services.router)
        raise
    except TimeoutError:
        if not deadline.expired():
            raise
        raise _late(call) from None


def foreseen(call: Call, exchange: Exchange, router: Router) -> bool:
    """Whether the answer will be captured, as far as can be told before a worker has the request."""
    asked = call.requests[0]
    if not (exchange.may_capture and isinstance(asked, GenerateRequest) and asked.capture
            and isinstance(asked.prompt, ChatPrompt) and not asked.prompt_only):
        return False
    try:
        return router.status(call.model).captured
    except EdgedError:
        return False


def _late(call: Call) -> DeadlineExceeded:
    return DeadlineExceeded(f"The answer was not ready within timeout_s = {call.timeout_s:g}.")


def _installed_name(said: str, router: Router) -> str:
    """For the metrics, whose labels are bounded: never a name that only the client knows."""
    try:
        status = router.status(said)
    except EdgedError:
        return ""
    return (status.alias_of or status.name).partition("@")[0]


async def _accept(call: Call, scope: str, router: Router, generations: list[Generation], *, may_capture: bool) -> None:
    """Fills `generations`, which the caller cancels whatever becomes of the later prompts. One version answers all of
    a call's prompts, whatever its model's name comes to mean meanwhile. scope: of whom prompts share their KV with.
    may_capture: the client has nothing against it."""
    model = call.model
    for request in call.requests:
        generations.append(await router.generate(model, _marked(request, scope, may_capture=may_capture)))
        model = f"{generations[0].served.name}@{generations[0].served.version}"
    if call.keep_alive_s is not None:
        await router.load(call.model, keep_alive_s=call.keep_alive_s)


def _marked(request: Request, scope: str, *, may_capture: bool) -> Request:
    if (not scope and may_capture) or not isinstance(request, GenerateRequest):
        return request
    return msgspec.structs.replace(request, cache_scope=scope, capture=request.capture and may_capture)


async def _merged(generations: list[Generation]) -> AsyncGenerator[tuple[int, list[Event]]]:
    """Each generation's events in its order. The queue is short: back-pressure reaches every generation."""
    if len(generations) == 1:
        async for event in generations[0]:
            yield 0, [event, *generations[0].more()]
        return
    queue: asyncio.Queue[tuple[int, list[Event] | Exception | None]] = asyncio.Queue(maxsize=1)

    async def pump(prompt: int, generation: Generation) -> None:
        try:
            async for event in generation:
                await queue.put((prompt, [event, *generation.more()]))
        except EdgedError as error:
            await queue.put((prompt, error))
        else:
            await queue.put((prompt, None))

    pumps = [asyncio.create_task(pump(prompt, generation)) for prompt, generation in enumerate(generations)]
    try:
        ended = 0
        while ended < len(pumps):
            prompt, got = await queue.get()
            if got is None:
                ended += 1
            elif isinstance(got, Exception):
                raise got
            else:
                yield prompt, got
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.wait(pumps)


def ignored_header(names: Sequence[str]) -> Headers:
    return [(b"edged-ignored", header_value(names))] if names else []


def captured_header(*, captured: bool) -> Headers:
    return [(CAPTURE_HEADER, b"on")] if captured else []


def _told(served: Served, exchange: Exchange) -> Headers:
    waited_ms = round((time.monotonic() - exchange.received_at) * 1000)
    return [
        *captured_header(captured=exchange.captured),
        (b"edged-model", f"{served.name}@{served.version}".encode()),
        (b"edged-engine", served.engine.encode()),
        (b"edged-device", served.device.encode("ascii", "replace")),
        (b"edged-queue-ms", str(waited_ms).encode()),
    ]

