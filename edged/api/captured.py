"""/edged/v1/captured: what is kept of answers for training, for operators who may not read the daemon's home."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import Struct

from edged.api.admin import said
from edged.api.exchange import Services
from edged.api.fields import Table, served, text
from edged.store.captured import Kept

PURGE: Table = {"model": served(text(512, min_length=1))}
_PIECE_BYTES = 256 << 10


class CapturedList(Struct, frozen=True):
    """on: models whose answers are kept now, by the settings or the catalog."""

    on: list[str]
    kept: list[Kept]


class PurgedAnswers(Struct, frozen=True):
    answers: int


def routes(services: Services) -> list[HTTPRouteHandler]:
    router = services.router

    @get("/captured")
    async def kept() -> CapturedList:
        return CapturedList(router.capture.models(), await router.capture.kept())

    @get("/captured/{name:path}")
    async def export(name: FromPath[str]) -> ASGIApp:
        """Every answer that is kept of a model, a line of JSON each, the oldest first."""
        pieces = _pieces(await router.capture.lines(name.removeprefix("/")))

        async def tell(scope: HTTPScope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [
                (b"content-type", b"application/x-ndjson")]})
            while piece := await asyncio.to_thread(next, pieces, b""):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        return tell  # type: ignore[return-value]

    @post("/captured/purge", status_code=200)
    async def purge(request: Request[Any, Any, Any]) -> PurgedAnswers:
        """Forgets those of one model, or of all, also what is being answered now."""
        body = await said(request, services, PURGE)
        return PurgedAnswers(await router.capture.purge(body.get("model")))

    return [kept, export, purge]


def _pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
