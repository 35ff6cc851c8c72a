"""The life of the serving process, from its first turn of the event loop to its exit.

    start ─▶ serve ─▶ stop asked ─▶ drain (requests in flight may end; new ones get 503) ─▶ close
                          └──────── asked again ─▶ kill ─▶ close
Signals only set what `Daemon` waits for; one task acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
import uvloop

from edged.api.app import create_app
from edged.api.server import server_config
from edged.cli.exit_codes import ExitCode
from edged.cli.listen import Listeners
from edged.cli.notify import Notifier
from edged.daemon.jobs import Jobs
from edged.daemon.metrics import Metrics
from edged.daemon.responses import Responses
from edged.daemon.router import Router
from edged.errors import ConfigError
from edged.logs import chosen_format
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile
from edged.version import VERSION

#: After the drain, answers that are still on their way to slow clients have this long.
LAST_BYTES_S = 2.0
#: What workers that ignore all but SIGKILL take to be gone, on top.
ENDING_S = 10.0

log = structlog.get_logger("edged")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: what a signal means is decided here."""

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


class Daemon:
    def __init__(self, settings: Settings, store: Store, catalog: CatalogFile, listeners: Listeners, *,
                 config: Path | None, notifier: Notifier | None = None) -> None:
        self._settings, self._listeners, self._config = settings, listeners, config
        self._notifier = notifier if notifier is not None else Notifier()
        metrics = Metrics()
        self._router = Router(settings, store, catalog, metrics)
        self._jobs = Jobs(settings, store, catalog, metrics, made=self._router.activated)
        addresses = [address for address in (listeners.url, listeners.path) if address]
        self._responses = Responses(settings)
        app = create_app(self._router, settings, self._jobs, metrics, store, responses=self._responses,
                         addresses=addresses)
        self._server = _Server(server_config(app, settings, timeout_graceful_shutdown=LAST_BYTES_S))
        self._asked = asyncio.Event()
        self._asked_again = asyncio.Event()
        self._reloading: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        serving = asyncio.create_task(self._server.serve(self._listeners.sockets), name="http")
        watchdog = asyncio.create_task(self._notifier.keep_alive(), name="watchdog")
        await self._router.start()
        await self._server.up.wait()
        # What the start made stays for ever: the collector never looks at it again.
        gc.freeze()
        gc.enable()
        self._told_ready()
        await self._jobs.start()
        await self._responses.start()
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        failed = serving.done()
        try:
            await self._stop(serving)
        finally:
            asked.cancel()
            watchdog.cancel()
        return ExitCode.FAILED if failed else ExitCode.OK

    def ask_to_stop(self) -> None:
        (self._asked_again if self._asked.is_set() else self._asked).set()

    def ask_to_reload(self) -> None:
        task = asyncio.create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _stop(self, serving: asyncio.Task[None]) -> None:
        grace_s = self._settings.grace_s
        log.info("stopping", grace_s=grace_s)
        self._notifier.stopping("requests in flight may end")
        self._notifier.more_time(grace_s + ENDING_S)
        ending = asyncio.create_task(self._end_gently())
        again = asyncio.create_task(self._asked_again.wait())
        await asyncio.wait({ending, again}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            log.warning("stopping.at_once")
            self._server.end(at_once=True)
            await self._router.kill()
        await ending
        again.cancel()
        await serving
        log.info("stopped")

    async def _end_gently(self) -> None:
        """New requests are answered with 503 to the end: the sockets close last."""
        await self._router.drain(self._settings.grace_s)
        await self._jobs.close()
        await self._responses.close()
        self._server.end(at_once=False)

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            await self._router.reload()
            self._jobs.convert_as_catalogued()
        except ConfigError as error:
            log.error("catalog.kept", mistake=str(error), file=error.file, line=error.line, column=error.column,
                      key=error.key)
        self._notifier.ready("serving")

    def _told_ready(self) -> None:
        listeners, settings = self._listeners, self._settings
        if listeners.lacking is not None:
            log.warning("socket.lacking", reason=listeners.lacking)
        if listeners.unix is None:
            log.info("socket.none", hint="commands such as `edged ps` talk to the daemon over its socket")
        if chosen_format(settings.log_format, sys.stderr) == "console":
            where = " and ".join(address for address in (listeners.url, listeners.path) if address)
            print(f"edged {VERSION} listens on {where} (home {settings.home}, configuration "
                  f"{self._config or 'none'}); ctrl-C stops it", file=sys.stderr, flush=True)
        else:
            host, port = listeners.tcp.getsockname()[:2] if listeners.tcp else (None, None)
            log.info("listening", url=listeners.url, host=host, port=port, socket=listeners.path,
                     home=str(settings.home), config=str(self._config) if self._config else None, version=VERSION)
        self._notifier.ready(f"serving on {listeners.url or listeners.path}")


def run(daemon: Daemon, *, until_input_ends: bool) -> int:
    """In an event loop of its own; the exit code."""
    return uvloop.run(_run(daemon, until_input_ends=until_input_ends))


async def _run(daemon: Daemon, *, until_input_ends: bool) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.ask_to_stop)
    loop.add_signal_handler(signal.SIGHUP, daemon.ask_to_reload)
    if until_input_ends:
        await loop.connect_read_pipe(lambda: _UntilEnd(daemon), sys.stdin)
    return await daemon.run()


class _UntilEnd(asyncio.Protocol):
    """Whoever holds the other end of standard input is gone, in whatever way: nobody needs this daemon any more."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def connection_lost(self, exc: Exception | None) -> None:
        self._daemon.ask_to_stop()
        self._daemon.ask_to_stop()
