"""The HTTP server of the serving process: the web framework, which takes most of a start to import, and uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn

from edged.api.app import create_app
from edged.api.server import server_config
from edged.daemon.jobs import Jobs
from edged.daemon.metrics import Metrics
from edged.daemon.responses import Responses
from edged.daemon.router import Router
from edged.settings import Settings
from edged.store import Store

#: After the drain, answers that are still on their way to slow clients have this long.
LAST_BYTES_S = 2.0


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: what a signal means is decided by the daemon."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self, *, at_once: bool) -> None:
        self.should_exit = True
        self.force_exit = self.force_exit or at_once


def make_server(router: Router, settings: Settings, jobs: Jobs, metrics: Metrics, store: Store, *,
                responses: Responses, addresses: Sequence[str]) -> Server:
    """addresses: where it will listen, as people write them."""
    app = create_app(router, settings, jobs, metrics, store, responses=responses, addresses=addresses)
    return Server(server_config(app, settings, timeout_graceful_shutdown=LAST_BYTES_S))
