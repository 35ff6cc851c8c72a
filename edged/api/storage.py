"""/edged/v1/manifests, gc, verify and purge: the store behind the daemon, for commands of users who may not read it."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from edged.api.exchange import Services
from edged.api.fields import Table, accept, served, text
from edged.api.limits import read_json
from edged.errors import ModelNotFound
from edged.store.entries import Activation, Collected, Damage, Manifest

_NOTHING: Table = {}
VERIFY: Table = {"model": served(text(512, min_length=1))}


class Versions(Struct, frozen=True):
    """Oldest first. active: the version that the name alone means, None where none was let serve. history: when which
    version was activated."""

    active: str | None
    versions: list[Manifest]
    history: list[Activation]


class Verified(Struct, frozen=True):
    damage: list[Damage]


class Purged(Struct, frozen=True):
    """How many stored responses, files of KV and captured answers are gone."""

    responses: int
    kv_files: int
    captured: int


def routes(services: Services) -> list[HTTPRouteHandler]:
    store, router = services.store, services.router

    async def said(request: Request[Any, Any, Any], table: Table) -> dict[str, Any]:
        return accept(table, await read_json(request.scope, request.receive, services.limits), unknown="refuse").values

    def plain_name(said: str) -> str:
        """Of an alias or a version, the name of the model. Raises ModelNotFound."""
        found = router.status(said)
        return found.alias_of.partition("@")[0] if found.alias_of else found.name

    @get("/manifests/{name:path}", sync_to_thread=False)
    def manifests(name: FromPath[str]) -> Versions:
        said = name.removeprefix("/")
        try:
            plain = plain_name(said)
        except ModelNotFound:
            # A conversion under a new name that fell short: its versions are kept, and nothing answers to the name.
            if not store.manifests.versions(said):
                raise
            plain = said
        return Versions(store.manifests.pointer(plain), store.versions(plain), [*store.manifests.history(plain)])

    @post("/gc", status_code=200)
    async def collect(request: Request[Any, Any, Any]) -> Collected:
        """Removes what no model needs. Leases keep what this or any other process uses."""
        await said(request, _NOTHING)
        return await asyncio.to_thread(store.collect)

    @post("/verify", status_code=200)
    async def verify(request: Request[Any, Any, Any]) -> Verified:
        """Hashes every file of one model, or of all, again; takes as long as reading them."""
        body = await said(request, VERIFY)
        name = plain_name(body["model"]) if "model" in body else None
        return Verified(await asyncio.to_thread(store.verify, name))

    @post("/purge", status_code=200)
    async def purge(request: Request[Any, Any, Any]) -> Purged:
        """Forgets what clients said and were answered: the stored responses of all of them, and what was kept of their
        prompts for the next ones, on disk and in workers, and the answers captured for training."""
        await said(request, _NOTHING)
        # All of them, also where one is refused.
        captured, responses, kv_files = await asyncio.gather(
            router.capture.purge(), services.responses.purge(), router.purge(), return_exceptions=True)
        return Purged(_count(responses), _count(kv_files), _count(captured))

    return [manifests, collect, verify, purge]


def _count(gone: int | BaseException) -> int:
    if isinstance(gone, BaseException):
        raise gone
    return gone
