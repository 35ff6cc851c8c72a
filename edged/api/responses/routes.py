"""/v1/responses: OpenAI's Responses. Create, get, follow, cancel, delete, and list the input of one.

A response is made as a chat's answer is (`answering`), and kept once it has ended, before its last byte is sent; one in
the background is kept when it is accepted too, so that a crash does not lose it without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import structlog
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import Struct
from msgspec.structs import replace

from edged.api.answering import Call, answer
from edged.api.connection import send_json
from edged.api.exchange import Services, exchange_of
from edged.api.fields import Table, inert, served
from edged.api.limits import read_json
from edged.api.query import count, flag, one_of, query, word
from edged.api.responses import background
from edged.api.responses.events import ResponseBody
from edged.api.responses.history import History, record_of
from edged.api.responses.items import Item, Message, OutputText
from edged.api.responses.request import LOGPROBS, Asked, include, parse
from edged.api.responses.stream import ResponseAnswer, ResponseStream
from edged.daemon.responses import Responses
from edged.errors import Conflict, EdgedError, InvalidRequest

log = structlog.get_logger("edged.api")

GET_QUERY: Table = {
    "stream": served(flag), "starting_after": served(count(0, 2**31)), "include": served(include),
    "include_obfuscation": inert(flag),
}
LIST_QUERY: Table = {
    "after": served(word), "limit": served(count(1, 100)), "order": served(one_of("asc", "desc")),
    "include": served(include),
}


class Deleted(Struct, frozen=True):
    id: str
    object: str = "response"
    deleted: bool = True


class ItemList(Struct, frozen=True):
    data: list[Item]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"


class Keeping:
    """Stores the response as it ended. Where storing was asked for in so many words it must succeed; where it is only
    the default, an answer that cannot be stored says `"store": false`."""

    def __init__(self, asked: Asked, inputs: Sequence[Item], stream: ResponseStream, responses: Responses) -> None:
        self._inputs, self._stream, self._responses = inputs, stream, responses
        self._demanded = asked.store
        self._client = asked.request.client

    async def begin(self) -> None:
        """Of one in the background: from now on it is there."""
        await self._responses.put(record_of(self._stream.look(), self._inputs, self._client, running=True))

    async def end(self) -> None:
        if not self._stream.body.store:
            return
        try:
            await self._responses.put(record_of(self._stream.body, self._inputs, self._client))
        except EdgedError as error:
            if self._demanded and self._stream.body.status in ("completed", "incomplete"):
                raise
            log.warning("response.not_stored", response=self._stream.body.id, reason=error.message)
            self._stream.body = replace(self._stream.body, store=False)


def _store_wanted(asked: Asked, services: Services) -> bool:
    if services.responses.on:
        return asked.begun.store
    if asked.store or asked.begun.background:
        raise InvalidRequest(
            "This server stores no responses (stored_responses = 0 in its settings). Send the whole conversation as "
            "input, with store=false.", param="store" if asked.store else "background")
    return False


async def _create(scope: HTTPScope, receive: Receive, send: Send, services: Services) -> None:
    exchange = exchange_of(scope)
    client = exchange.caller.client
    asked = parse(await read_json(scope, receive, services.limits), exchange, services.settings.unknown_fields)
    begun = replace(asked.begun, store=_store_wanted(asked, services))
    history = History(services.responses, client)
    before = await history.before(begun.previous_response_id)
    inputs = await history.resolved(asked.items)
    stream = ResponseStream(begun, logprobs=asked.logprobs)
    keeping = Keeping(asked, inputs, stream, services.responses)
    call = Call(
        model=begun.model,
        requests=[asked.with_items([*before, *inputs])],
        stream=asked.stream,
        streamed=stream.serve,
        collected=lambda served: ResponseAnswer(stream.serve(served)),
        timeout_s=asked.timeout_s,
        keep_alive_s=asked.keep_alive_s,
        ignored=asked.ignored,
        ended=keeping.end,
    )
    if begun.background:
        making = background.Making(call, stream, keeping.begin, services)
        await making.create(scope, receive, send)
    else:
        await answer(call, exchange, services, receive, send)


def _page(items: list[Item], said: dict[str, Any]) -> ItemList:
    order: Literal["asc", "desc"] = said.get("order", "desc")
    ordered = items if order == "asc" else items[::-1]
    if (after := said.get("after")) is not None:
        at = next((index for index, item in enumerate(ordered) if item.id == after), None)
        if at is None:
            raise InvalidRequest("`after` names no item of this response.", param="after")
        ordered = ordered[at + 1:]
    page = ordered[: said.get("limit", 20)]
    return ItemList(page, page[0].id if page else "", page[-1].id if page else "", len(page) < len(ordered))


def _check_include(said: dict[str, Any], response: ResponseBody) -> None:
    """What was not computed cannot be told later."""
    texts = [part for item in response.output if isinstance(item, Message)
             for part in item.content if isinstance(part, OutputText)]
    if LOGPROBS in said.get("include", []) and any(part.text and not part.logprobs for part in texts):
        raise InvalidRequest(f"This response was made without `{LOGPROBS}`; say include when it is created.",
                             param="include")


def _told(body: Struct) -> ASGIApp:
    async def tell(scope: HTTPScope, receive: Receive, send: Send) -> None:
        await send_json(send, body)

    return tell  # type: ignore[return-value]


def routes(services: Services) -> list[HTTPRouteHandler]:
    responses = services.responses

    def client_of(request: Request[Any, Any, Any]) -> str:
        return exchange_of(request.scope).caller.client

    def history_of(request: Request[Any, Any, Any]) -> History:
        return History(responses, client_of(request))

    @post("/v1/responses", status_code=200)
    async def create() -> ASGIApp:
        return partial(_create, services=services)

    @get("/v1/responses/{identity:str}")
    async def retrieve(request: Request[Any, Any, Any], identity: FromPath[str]) -> ASGIApp:
        """With `stream` the events of one that was created with background and stream, from the one after
        `starting_after` on, while it is made and for a while after."""
        said = query(request.scope, GET_QUERY)
        if said.get("stream"):
            transcript = responses.background.transcript(identity, client_of(request))
            if transcript is None:
                await history_of(request).one(identity)
                raise Conflict(
                    f"The events of {identity} are not held: a response is streamed again where it was created with "
                    "both background and stream, while it is made and shortly after. Get it without stream.",
                    param="stream")
            after = said.get("starting_after", -1)
            return background.followed(transcript, after + 1, services)  # type: ignore[return-value]
        if "starting_after" in said:
            raise InvalidRequest("`starting_after` needs `stream`.", param="starting_after")
        response = (await history_of(request).one(identity)).response
        _check_include(said, response)
        return _told(response)

    @delete("/v1/responses/{identity:str}", status_code=200)
    async def remove(request: Request[Any, Any, Any], identity: FromPath[str]) -> Deleted:
        """One that is being made is cancelled first."""
        client = client_of(request)
        if (run := responses.background.running(identity, client)) is not None:
            await responses.background.cancel(run)
        await responses.delete(identity, client)
        return Deleted(identity)

    @get("/v1/responses/{identity:str}/input_items")
    async def input_items(request: Request[Any, Any, Any], identity: FromPath[str]) -> ItemList:
        """All items that the answer was made from: the conversation before it, then its own input."""
        said = query(request.scope, LIST_QUERY)
        history = history_of(request)
        kept = await history.one(identity)
        before = await history.before(kept.response.previous_response_id, param=None)
        return _page([*before, *kept.inputs], said)

    @post("/v1/responses/{identity:str}/cancel", status_code=200)
    async def cancel(request: Request[Any, Any, Any], identity: FromPath[str]) -> ResponseBody:
        """Of one that has ended already: as it ended."""
        history = history_of(request)
        if not (await history.one(identity)).response.background:
            raise InvalidRequest("Only a response that was created with background can be cancelled; to end another "
                                 "one, close its connection.", param="background")
        if (run := responses.background.running(identity, client_of(request))) is not None:
            await responses.background.cancel(run)
        return (await history.one(identity)).response

    return [create, retrieve, remove, input_items, cancel]


