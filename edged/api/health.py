"""/health/live, /health/ready and /metrics."""

from __future__ import annotations

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from edged.api.exchange import Services
from edged.daemon.metrics import CONTENT_TYPE
from edged.errors import EdgedError


class NotReady(EdgedError):
    status = 503
    default_code = "not_ready"


def routes(services: Services) -> list[HTTPRouteHandler]:
    @get("/health/live", sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "live"}

    @get("/health/ready", sync_to_thread=False)
    def ready() -> dict[str, str]:
        """Ready: can answer, or can load a model; not before, and not while draining."""
        if not services.router.ready:
            raise NotReady("edged is starting or stopping.", retry_after_s=1)
        return {"status": "ready"}

    @get("/metrics", sync_to_thread=False)
    def metrics() -> Response[bytes]:
        return Response(services.metrics.render(), headers={"content-type": CONTENT_TYPE})

    return [live, ready, metrics]
