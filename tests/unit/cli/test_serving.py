"""The first moments of the serving process: what may go wrong while its HTTP server comes up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edged.cli.listen import Listeners
from edged.cli.notify import Notifier
from edged.cli.serving import Daemon
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile

pytestmark = pytest.mark.unit


class Told(Notifier):
    """What the service manager would hear."""

    def __init__(self) -> None:
        super().__init__({})
        self.lines: list[str] = []

    def _tell(self, *lines: str) -> None:
        self.lines.append(lines[0].partition("=")[0])


class HttpServer:
    """fails: with what it ends before it serves."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.up = asyncio.Event()
        self._fails, self._ended = fails, asyncio.Event()

    async def serve(self, sockets: object) -> None:
        await asyncio.sleep(0)
        if self._fails is not None:
            raise self._fails
        self.up.set()
        await self._ended.wait()

    def end(self, *, at_once: bool) -> None:
        self._ended.set()


def daemon(folder: Path, notifier: Notifier) -> Daemon:
    for name in ("models.toml", "shipped.toml"):
        (folder / name).write_text("")
    settings = Settings(home=folder / "home", grace_s=1, log_format="json")
    catalog = CatalogFile(folder / "models.toml", folder / "shipped.toml")
    return Daemon(settings, Store(settings.home), catalog, Listeners(), config=None, notifier=notifier)


async def test_a_server_that_cannot_come_up_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    made: Any = daemon(tmp_path, Told())

    async def server() -> HttpServer:
        return HttpServer(OSError("no more sockets"))

    made._make_server = server
    with pytest.raises(OSError, match="no more sockets"):
        await asyncio.wait_for(made.run(), 5)


async def test_a_reload_that_is_asked_for_before_it_serves_waits_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    made: Any = daemon(tmp_path, told)
    imported = asyncio.Event()
    order: list[str] = []

    async def server() -> HttpServer:
        await imported.wait()
        return HttpServer()

    async def started() -> None:
        order.append("jobs started")

    made._make_server = server
    monkeypatch.setattr(made._jobs, "start", started)
    monkeypatch.setattr(made._jobs, "convert_as_catalogued", lambda: order.append("converted"))
    running = asyncio.create_task(made.run())
    made.ask_to_reload()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert "READY" not in told.lines
    imported.set()
    for _ in range(2000):
        if "converted" in order:
            break
        await asyncio.sleep(0.001)
    assert order == ["jobs started", "converted"]
    assert [line for line in told.lines if line in ("READY", "RELOADING")] == ["READY", "RELOADING", "READY"]
    made.ask_to_stop()
    assert await asyncio.wait_for(running, 10) == 0
