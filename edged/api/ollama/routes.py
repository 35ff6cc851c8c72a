"""Ollama's HTTP API, for clients and programs that speak only that: OLLAMA_HOST=127.0.0.1:8343.

What it does otherwise than Ollama: nothing is cut to fit or passed over in silence, see `ollama_options`; and names are
edged's, see `ollama_names`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Set
from typing import Any

from litestar import Request, delete, get, post, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import Struct

from edged.api.admin import removed
from edged.api.answering import Call, answer
from edged.api.auth import require_admin
from edged.api.exchange import Exchange, Services, exchange_of
from edged.api.fields import Table, Unknown, accept, served, text
from edged.api.limits import JSON_KINDS, read_json
from edged.api.ollama import chat as ollama_chat
from edged.api.ollama import embed as ollama_embed
from edged.api.ollama import generate as ollama_generate
from edged.api.ollama import lines as ollama_lines
from edged.api.ollama import pull as ollama_pull
from edged.api.ollama.models import SHOW, Cards, Processes, Shown, Tags
from edged.api.ollama.names import installed
from edged.api.ollama.request import Presence
from edged.errors import InvalidRequest, MissingParameter, NotFound
from edged.version import VERSION

#: Of Ollama's API: the newest whose fields are known here. Programs ask for it to see what they may use.
API_VERSION = "0.12.11"
#: Programs ask for / to see whether a server is there, and some look for Ollama's words.
GREETING = "edged is running. To programs that ask for it: Ollama is running\n"

DELETE: Table = {"model": served(text(512)), "name": served(text(512))}
_INSTEAD = {
    "create": "`edged pull` takes a file or folder, `edged convert` makes other forms, and models.toml says how each "
              "is served.",
    "copy": "Give a model a second name under [aliases] in models.toml.",
    "push": "edged publishes nothing; `edged export` writes a model as a folder.",
    "blobs": "`edged pull ./FILE` takes a file of this machine.",
}

#: `curl -d`, as Ollama's own pages have it, says that a form comes, and LiteLLM says nothing; Ollama does not look.
#: Where an operator's rights are needed, JSON must be said: that keeps forms of other sites out beside the check of
#: Origin.
_ANY_KIND = JSON_KINDS | {"application/x-www-form-urlencoded", ""}

Parse = Callable[[dict[str, Any], Exchange, Unknown], Call | Presence]
Present = Callable[[str, str], Struct]


class NotServed(InvalidRequest):
    """An operation of Ollama's that edged does in another way, or not at all."""

    default_code = "unsupported_operation"


class Version(Struct, frozen=True):
    """version: of Ollama's API. edged: of this server."""

    version: str
    edged: str


def routes(services: Services) -> list[HTTPRouteHandler]:
    cards = Cards(services)

    async def said(request: Request[Any, Any, Any], table: Table, kinds: Set[str] = JSON_KINDS) -> dict[str, Any]:
        """With the model under `model`, whichever of its two names it was said by."""
        raw = await read_json(request.scope, request.receive, services.limits, kinds)
        body = accept(table, raw, unknown="refuse").values
        body["model"] = body.get("model") or body.get("name")
        if not body["model"]:
            raise MissingParameter("`model` is missing.", param="model")
        return body

    def answering(parse: Parse, present: Present) -> ASGIApp:
        async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
            exchange = exchange_of(scope)
            body = await read_json(scope, receive, services.limits, _ANY_KIND)
            parsed = parse(body, exchange, services.settings.unknown_fields)
            model = installed(parsed.model, services.router)
            if isinstance(parsed, Call):
                await answer(dataclasses.replace(parsed, model=model), exchange, services, receive, send)
            else:
                await ollama_lines.tell(
                    _presence(parsed, model, present, exchange, services), exchange, services, receive, send,
                    stream=parsed.stream, ignored=parsed.ignored)

        return endpoint  # type: ignore[return-value]

    @post("/api/chat", status_code=200)
    async def chat() -> ASGIApp:
        return answering(ollama_chat.parse, ollama_chat.present)

    @post("/api/generate", status_code=200)
    async def generate() -> ASGIApp:
        return answering(ollama_generate.parse, ollama_generate.present)

    @post("/api/embed", status_code=200)
    async def embed() -> ASGIApp:
        return answering(ollama_embed.parse, ollama_embed.present)

    @post("/api/embeddings", status_code=200)
    async def embeddings() -> ASGIApp:
        return answering(ollama_embed.parse_old, ollama_embed.present_old)

    @get("/api/tags")
    async def tags() -> Tags:
        return await cards.tags()

    @get("/api/ps")
    async def ps() -> Processes:
        return await cards.processes()

    @post("/api/show", status_code=200)
    async def show(request: Request[Any, Any, Any]) -> Shown:
        return await cards.show((await said(request, SHOW, _ANY_KIND))["model"])

    @get("/api/version", sync_to_thread=False)
    def version() -> Version:
        return Version(API_VERSION, VERSION)

    @post("/api/pull", status_code=200)
    async def pull(request: Request[Any, Any, Any]) -> ASGIApp:
        exchange = exchange_of(request.scope)
        require_admin(exchange.caller)
        body = await said(request, ollama_pull.PULL)
        job = await services.jobs.pull(ollama_pull.reference(body["model"], services.router))

        async def follow(scope: HTTPScope, receive: Receive, send: Send) -> None:
            await ollama_lines.tell(ollama_pull.lines(job), exchange, services, receive, send,
                                    stream=body.get("stream", True))

        return follow  # type: ignore[return-value]

    @delete("/api/delete", status_code=200)
    async def remove(request: Request[Any, Any, Any]) -> None:
        require_admin(exchange_of(request.scope).caller)
        body = await said(request, DELETE)
        await removed(installed(body["model"], services.router), services)

    @post(["/api/create", "/api/copy", "/api/push", "/api/blobs/{digest:str}"], sync_to_thread=False)
    def refused(request: Request[Any, Any, Any]) -> None:
        operation = request.scope["path"].split("/")[2]
        raise NotServed(f"edged does not serve Ollama's {operation}. {_INSTEAD[operation]}")

    @route("/api/blobs/{digest:str}", http_method=[HttpMethod.HEAD], sync_to_thread=False)
    def no_blob() -> None:
        raise NotFound(f"edged keeps no blobs of Ollama's. {_INSTEAD['blobs']}")

    @route("/", http_method=[HttpMethod.GET, HttpMethod.HEAD], sync_to_thread=False, media_type="text/plain")
    def greeting() -> str:
        return GREETING

    return [chat, generate, embed, embeddings, tags, ps, show, version, pull, remove, refused, no_blob, greeting]


async def _presence(
    asked: Presence, model: str, present: Present, exchange: Exchange, services: Services
) -> AsyncIterator[Struct]:
    """Loads or unloads. To unload takes an admin, as it does elsewhere: others may wait for that model."""
    if asked.keep_alive_s == 0:
        require_admin(exchange.caller)
        status, reason = await services.router.unload(model), "unload"
    else:
        status, reason = await services.router.load(
            model, keep_alive_s=asked.keep_alive_s, forgive=exchange.caller.admin), "load"
    exchange.model = (status.alias_of or status.name).partition("@")[0]
    yield present(asked.model, reason)
