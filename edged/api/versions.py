"""/edged/v1/activate, rollback and rollout: which version of a model answers to its name."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from edged.api.admin import said
from edged.api.exchange import Services
from edged.api.fields import Table, boolean, choice, served, text
from edged.daemon.rollouts import RolloutStatus
from edged.daemon.status import ModelStatus

MODEL: Table = {"model": served(text(512, min_length=1), required=True)}
ACTIVATE: Table = {**MODEL, "by": served(choice("activate", "bench"))}
ROLLOUT: Table = {**MODEL, "retry": served(boolean)}


def routes(services: Services) -> list[HTTPRouteHandler]:
    router = services.router

    @post("/activate", status_code=200)
    async def activate(request: Request[Any, Any, Any]) -> ModelStatus:
        """`name@version`: answered once it answers to its name, which takes a load, or with why it does not. by: what
        its history is to say; `bench` where figures decided and nobody."""
        body = await said(request, services, ACTIVATE)
        return await router.activate(body["model"], body.get("by", "activate"))

    @post("/rollback", status_code=200)
    async def rollback(request: Request[Any, Any, Any]) -> ModelStatus:
        """To the version that was active before; again, to the one before that."""
        body = await said(request, services, MODEL)
        return await router.rollback(body["model"])

    @get("/rollout/{name:path}", sync_to_thread=False)
    def rollout(name: FromPath[str]) -> RolloutStatus:
        return router.rollout(name.removeprefix("/"))

    @post("/rollout", status_code=200)
    async def try_again(request: Request[Any, Any, Any]) -> RolloutStatus:
        """With `retry`, a candidate that was taken back is tried again."""
        body = await said(request, services, ROLLOUT)
        return router.rollout(body["model"], retry=body.get("retry", False))

    return [activate, rollback, rollout, try_again]
