"""The application: guards first, then Litestar's routes.

    request ──▶ Gate: request id · header size · Host and Origin · key ──▶ Litestar ──▶ route: body, fields, answer
The gate is outside of Litestar, so that it also stands before routes that do not exist.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from litestar import Litestar, Request, Response
from litestar import Router as LitestarRouter
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ASGIApp, HTTPScope, LifeSpanScope, Message, Receive, Scope, Send

from edged.api import (
    admin,
    captured,
    chat,
    completions,
    embeddings,
    health,
    models,
    openapi,
    rerank,
    storage,
    tokens,
    versions,
)
from edged.api import jobs as job_routes
from edged.api.anthropic import routes as anthropic
from edged.api.auth import Keys, require_admin
from edged.api.errors import known, rendered
from edged.api.exchange import CAPTURE_HEADER, Exchange, Services, exchange_of, may_capture, request_id
from edged.api.hosts import Hosts
from edged.api.limits import check_headers, limits_of
from edged.api.ollama import routes as ollama
from edged.api.responses import routes as responses
from edged.api.wire import wire_of

if TYPE_CHECKING:
    from edged.daemon.jobs import Jobs
    from edged.daemon.metrics import Metrics
    from edged.daemon.responses import Responses
    from edged.daemon.router import Router
    from edged.settings import Settings
    from edged.store import Store

log = structlog.get_logger(__name__)


def create_app(
    router: Router, settings: Settings, jobs: Jobs, metrics: Metrics, store: Store, *, responses: Responses,
    addresses: Sequence[str] = (),
) -> ASGIApp:
    """What uvicorn serves, on TCP and on the Unix socket alike. addresses: where it listens, for /edged/v1/status."""
    services = Services(router, settings, jobs, metrics, store, responses, limits_of(settings), addresses)
    return Gate(create_routes(services), services)


_MODULES = (
    chat, completions, responses, embeddings, rerank, tokens, models, health, anthropic, ollama, openapi,
)


def _admin_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Hangs on the routes themselves: no spelling of a path (`//edged/…`) leads around it."""
    require_admin(exchange_of(connection.scope).caller)


class _Routes(Litestar):
    """Without the plugins for pydantic and attrs, whose values no route takes or gives: 60 ms of each start."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_routes(services: Services) -> Litestar:
    """Every route, behind no gate."""
    origins = list(services.settings.cors_origins)
    operators = [*admin.routes(services), *job_routes.routes(services), *storage.routes(services),
                 *versions.routes(services), *captured.routes(services)]
    admin_routes = LitestarRouter("/edged/v1", route_handlers=operators, guards=[_admin_only])
    told = ["x-request-id", CAPTURE_HEADER.decode()]
    return _Routes(
        route_handlers=[*(handler for module in _MODULES for handler in module.routes(services)), admin_routes],
        exception_handlers={Exception: _exception},
        cors_config=CORSConfig(allow_origins=origins, expose_headers=told) if origins else None,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


def _exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    failure = known(error, method=request.method, path=request.scope["path"])
    answer = rendered(failure, exchange_of(request.scope).wire)
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, status_code=answer.status, headers=headers, media_type="application/json")


class Gate:
    """Outermost: who may come in, and what is told of every request afterwards."""

    def __init__(self, app: Litestar, services: Services) -> None:
        settings = services.settings
        self.app = app
        self._metrics = services.metrics
        self._header_bytes = services.limits.header_bytes
        self._hosts = Hosts(settings.host, settings.allowed_hosts, settings.cors_origins)
        self._keys = Keys(settings.api_keys, settings.admin_keys)

    async def __call__(self, scope: Scope | LifeSpanScope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == ScopeType.HTTP:
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "There are no websockets here."})

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        id_ = request_id(scope)
        exchange = Exchange(id_, wire_of(scope["path"], id_), may_capture=may_capture(scope))
        scope.setdefault("state", {})["exchange"] = exchange
        every = [(b"x-request-id", id_.encode()), *exchange.wire.headers]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.started = True
                exchange.status = exchange.status or message["status"]
                message["headers"] = [*message["headers"], *every]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                check_headers(scope, self._header_bytes)
                self._hosts.check(scope)
                exchange.caller = self._keys.check(scope)
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                failure = known(error)
                exchange.status = failure.status
                if not exchange.started:
                    answer = rendered(failure, exchange.wire)
                    await send_with_id({
                        "type": "http.response.start", "status": answer.status, "headers": answer.headers,
                    })
                    await send_with_id({"type": "http.response.body", "body": answer.body, "more_body": False})
            finally:
                self._told(scope, exchange)

    def _told(self, scope: HTTPScope, exchange: Exchange) -> None:
        endpoint = scope.get("path_template") or "unknown"
        self._metrics.requests_total.labels(exchange.model, endpoint, str(exchange.status)).inc()
        log.info(
            "request", method=scope["method"], endpoint=endpoint, status=exchange.status,
            model=exchange.model or None, duration_ms=round((time.monotonic() - exchange.received_at) * 1000),
        )
