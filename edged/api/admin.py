"""/edged/v1/…: what the operator asks of the daemon. Bodies are JSON objects; a model is always named in the body or at
the end of the path, since its name may hold slashes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from msgspec import Struct

from edged.api.exchange import Services
from edged.api.fields import Table, accept, boolean, keep_alive, served, text
from edged.api.limits import read_json
from edged.daemon.status import ModelState, ModelStatus
from edged.errors import Conflict
from edged.hardware.facts import Facts
from edged.settings import describe_settings, plain
from edged.store import adapters
from edged.version import VERSION

_MODEL = served(text(512, min_length=1), required=True)
LOAD: Table = {"model": _MODEL, "keep_alive": served(keep_alive), "pin": served(boolean)}
UNLOAD: Table = {"model": _MODEL, "force": served(boolean)}


class Status(Struct, frozen=True, kw_only=True):
    """What a command needs to know before it talks to a daemon: is it the one that reads this store?"""

    version: str
    pid: int
    home: str
    socket: str | None
    addresses: list[str]
    uptime_s: float
    ready: bool
    loaded: int
    running: int
    waiting: int


class Statuses(Struct, frozen=True):
    models: list[ModelStatus]


class Removed(Struct, frozen=True):
    removed: str


class Reloaded(Struct, frozen=True):
    changed: list[str]


async def said(request: Request[Any, Any, Any], services: Services, table: Table) -> dict[str, Any]:
    body = await read_json(request.scope, request.receive, services.limits)
    return accept(table, body, unknown="refuse").values


async def removed(name: str, services: Services) -> None:
    """One version (`name@version`) or all. Raises Conflict while it is loaded. `edged gc` frees the bytes."""
    found = services.router.status(name)
    if found.alias_of is not None:
        raise Conflict(f"{name} is an alias of {found.alias_of}; name the model itself.", param="name")
    await asyncio.to_thread(services.store.remove, found.name, found.version if "@" in name else None)


def routes(services: Services) -> list[HTTPRouteHandler]:
    router, settings, store = services.router, services.settings, services.store
    started_at = time.monotonic()

    @get("/status", sync_to_thread=False)
    def status() -> Status:
        models = [model for model in router.models() if model.alias_of is None]
        return Status(
            version=VERSION, pid=os.getpid(), home=str(settings.home),
            socket=str(settings.socket) if settings.socket else None, addresses=list(services.addresses),
            uptime_s=round(time.monotonic() - started_at, 3), ready=router.ready,
            loaded=sum(model.state is not ModelState.ABSENT for model in models),
            running=sum(model.running for model in models), waiting=sum(model.waiting for model in models),
        )

    @get("/ps", sync_to_thread=False)
    def ps() -> Statuses:
        """Models that are loaded, loading, stopping or broken."""
        return Statuses([model for model in router.models()
                         if model.state is not ModelState.ABSENT and model.alias_of is None])

    @get("/models", sync_to_thread=False)
    def installed() -> Statuses:
        return Statuses(router.models())

    @get("/models/{name:path}", sync_to_thread=False)
    def one(name: FromPath[str]) -> ModelStatus:
        return router.status(name.removeprefix("/"))

    @delete("/models/{name:path}", status_code=200)
    async def remove(name: FromPath[str], adapter: FromQuery[str | None] = None) -> Removed:
        """With `adapter` only that: the active version is one without it from then on, and those with it stay."""
        name = name.removeprefix("/")
        if adapter is not None:
            router.activated(await asyncio.to_thread(adapters.remove, store, router.status(name).name, adapter))
            return Removed(f"{name} --adapter {adapter}")
        await removed(name, services)
        return Removed(name)

    @post("/load", status_code=200)
    async def load(request: Request[Any, Any, Any]) -> ModelStatus:
        body = await said(request, services, LOAD)
        return await router.load(body["model"], keep_alive_s=body.get("keep_alive"), pin=body.get("pin"))

    @post("/unload", status_code=200)
    async def unload(request: Request[Any, Any, Any]) -> ModelStatus:
        body = await said(request, services, UNLOAD)
        return await router.unload(body["model"], force=body.get("force", False))

    @post("/reload", status_code=200)
    async def reload() -> Reloaded:
        """The catalog is read again; a mistake in it leaves the old one in force."""
        changed = await router.reload()
        services.jobs.convert_as_catalogued()
        return Reloaded(changed)

    @get("/hardware")
    async def hardware() -> Facts:
        from edged.hardware.probe import probe_with

        return await asyncio.to_thread(probe_with, store.home)

    @get("/config", sync_to_thread=False)
    def config() -> dict[str, Any]:
        """Effective settings; of the secret ones only whether they are set."""
        return {info.name: plain(settings, info.name) for info in describe_settings()}

    return [status, ps, installed, one, remove, load, unload, reload, hardware, config]
