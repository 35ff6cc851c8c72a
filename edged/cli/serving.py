"""The life of the serving process, from its first turn of the event loop to its exit.

    start ─▶ serve ─▶ stop asked ─▶ drain (requests in flight may end; new ones get 503) ─▶ close
                          └──────── asked again ─▶ kill ─▶ close
Signals only set what `Daemon` waits for; one task acts on it.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from edged.cli.exit_codes import ExitCode
from edged.cli.listen import Listeners
from edged.cli.notify import Notifier
from edged.daemon.jobs import Jobs
from edged.daemon.metrics import Metrics
from edged.daemon.responses import Responses
from edged.daemon.router import Router
from edged.errors import ConfigError, Internal
from edged.logs import chosen_format
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile
from edged.version import VERSION

if TYPE_CHECKING:
    from edged.cli.web import Server

#: What workers that ignore all but SIGKILL take to be gone, on top.
ENDING_S = 10.0

log = structlog.get_logger("edged")


class Daemon:
    def __init__(self, settings: Settings, store: Store, catalog: CatalogFile, listeners: Listeners, *,
                 config: Path | None, notifier: Notifier | None = None, temporary: bool = False) -> None:
        """temporary: it ends with a command that started it."""
        self._settings, self._store, self._listeners, self._config = settings, store, listeners, config
        self._notifier = notifier if notifier is not None else Notifier()
        self._metrics = Metrics()
        self._router = Router(settings, store, catalog, self._metrics, remembers=not temporary)
        self._jobs = Jobs(settings, store, catalog, self._metrics, made=self._router.activated)
        self._responses = Responses(settings)
        self._asked = asyncio.Event()
        self._asked_again = asyncio.Event()
        #: It serves; a reload that is asked for earlier waits for that.
        self._ready = asyncio.Event()
        self._reloading: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        watchdog = asyncio.create_task(self._notifier.keep_alive(), name="watchdog")
        # Before the web framework is there: the workers of what is to be loaded start while it is imported.
        await self._router.start()
        try:
            server = await self._make_server()
            serving = await self._brought_up(server)
        except BaseException:
            await self._router.kill()
            raise
        # What the start made stays for ever: the collector never looks at it again.
        gc.freeze()
        gc.enable()
        self._told_ready()
        await self._jobs.start()
        await self._responses.start()
        self._ready.set()
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        failed = serving.done()
        try:
            await self._stop(server, serving)
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

    async def _make_server(self) -> Server:
        await asyncio.to_thread(import_module, "edged.cli.web")
        from edged.cli.web import make_server

        addresses = [address for address in (self._listeners.url, self._listeners.path) if address]
        return make_server(self._router, self._settings, self._jobs, self._metrics, self._store,
                           responses=self._responses, addresses=addresses)

    async def _brought_up(self, server: Server) -> asyncio.Task[None]:
        """The task that serves, once it does. Raises what it ended with before."""
        serving = asyncio.create_task(server.serve(self._listeners.sockets), name="http")
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait({serving, up}, return_when=asyncio.FIRST_COMPLETED)
        if not server.up.is_set():
            up.cancel()
            await serving
            raise Internal("the HTTP server ended before it served; the log tells why")
        return serving

    async def _stop(self, server: Server, serving: asyncio.Task[None]) -> None:
        grace_s = self._settings.grace_s
        log.info("stopping", grace_s=grace_s)
        self._notifier.stopping("requests in flight may end")
        self._notifier.more_time(grace_s + ENDING_S)
        ending = asyncio.create_task(self._end_gently(server))
        again = asyncio.create_task(self._asked_again.wait())
        await asyncio.wait({ending, again}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            log.warning("stopping.at_once")
            server.end(at_once=True)
            await self._router.kill()
        await ending
        again.cancel()
        await serving
        log.info("stopped")

    async def _end_gently(self, server: Server) -> None:
        """New requests are answered with 503 to the end: the sockets close last."""
        await self._router.drain(self._settings.grace_s)
        await self._jobs.close()
        await self._responses.close()
        server.end(at_once=False)

    async def _reload(self) -> None:
        await self._ready.wait()
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
