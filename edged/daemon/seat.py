"""A model's place in memory: its worker while it has one, what that takes, and what it told of itself.

Owned by one model, which hears of the worker through `Listener` and, last, of its end.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import structlog

from edged.daemon import refusals
from edged.daemon.appetite import Appetite
from edged.daemon.devices import Devices
from edged.daemon.drafting import draft_bytes, leased_draft
from edged.daemon.footprint import estimate
from edged.daemon.life import live
from edged.daemon.process import Ending, Exit, Listener, WorkerProcess
from edged.daemon.site import Site
from edged.hardware.providers import provider_of
from edged.ipc.messages import ToWorker
from edged.store.entries import Manifest, ModelEntry
from edged.types import DraftSpec, ModelInfo, Tuning, WorkerStats

if TYPE_CHECKING:
    from edged.daemon.placing import Placed

log = structlog.get_logger("edged.daemon")


class Sitter(Listener, Protocol):
    """Whose seat it is. `gone` comes last: the memory is free and nothing more is heard of the worker."""

    def gone(self, ended: Exit) -> None: ...


class Seat:
    def __init__(self, manifest: Manifest, site: Site, entry: Callable[[], ModelEntry], sitter: Sitter) -> None:
        self._manifest, self._site, self._entry, self._sitter = manifest, site, entry, sitter
        self._worker: WorkerProcess | None = None
        self._life: asyncio.Task[None] | None = None
        self._placing: asyncio.Task[Placed] | None = None
        self._wanted = False
        self.appetite = Appetite(manifest.digest, site.footprints)
        self.devices = Devices(entry)
        #: None until it can serve.
        self.info: ModelInfo | None = None
        #: What the last load took, from the decision to its end.
        self.load_s = 0.0
        self._began_s = 0.0
        self.stats = WorkerStats()
        self._placed: Placed | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def tuning(self) -> Tuning | None:
        """In force: as it was placed, or as its worker measured when it loaded."""
        measured = self.info.tuning if self.info is not None else None
        return measured or (self._placed.tuning if self._placed is not None else None)

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def held_bytes(self) -> int:
        return self.appetite.held_bytes(loaded=self.info is not None)

    def need_bytes(self) -> tuple[int, int]:
        """What it should be given, and the least with which there is sense in trying."""
        entry = self._entry()
        beside_bytes = draft_bytes(self._site.store, self._site.catalog, entry)
        least_bytes = estimate(self._manifest, entry) + beside_bytes
        # What was measured may be from before it had a draft model.
        need_bytes = max(self.appetite.need_bytes(least_bytes), least_bytes if beside_bytes else 0)
        return need_bytes, min(need_bytes, least_bytes)

    def take(self, *, need_bytes: int, grant_bytes: int, everything: bool) -> None:
        """A worker starts to load. need_bytes are set aside for it; it may take grant_bytes; everything: it could not
        be given more."""
        self._wanted, self._began_s = True, self._site.clock()
        self.appetite.give(need_bytes, everything=everything)
        # Its log entries are nobody's request: it outlives the one that caused it.
        self._life = asyncio.create_task(
            self._live(grant_bytes), name=f"model {self._manifest.name}@{self._manifest.version}",
            context=contextvars.Context())

    def tell(self, message: ToWorker) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def leave(self) -> None:
        """The worker is to end; `gone` follows."""
        self._wanted = False
        if self._placing is not None:
            self._placing.cancel()
        if self._worker is not None:
            self._worker.stop()

    async def left(self, *, at_once: bool) -> None:
        """After `leave`: when it has ended."""
        if at_once and self._worker is not None:
            self._worker.kill()
        if self._life is not None:
            await asyncio.wait([self._life])

    def may_serve(self, info: ModelInfo) -> bool:
        """It has loaded. False where it runs on another device than it was told to: then it ends, refused."""
        provider = self.devices.provider
        if provider is None or provider_of(info.device) == provider:
            return True
        if self._worker is not None:
            self._worker.refuse(refusals.misplaced(self._manifest.name, provider, info.device))
        return False

    def serves(self, info: ModelInfo) -> None:
        self.info, self.load_s = info, self._site.clock() - self._began_s
        self.appetite.satisfied()
        self.devices.serves()
        if info.tuning is not None and self._placed is not None:
            self._keeping = asyncio.create_task(asyncio.to_thread(self._placed.keep, info.tuning))

    def told(self, stats: WorkerStats) -> bool:
        """True where the worker has grown, so that memory is to be shared anew."""
        self.stats = stats
        return self.appetite.saw(stats.resident_bytes)

    async def _live(self, grant_bytes: int) -> None:
        ended = await live(self._site.store, self._manifest, partial(self._run, grant_bytes))
        if ended.loaded:
            self.appetite.ended()
        self._worker = self._life = self.info = None
        self.stats = WorkerStats()
        self._sitter.gone(ended)

    async def _run(self, grant_bytes: int, folder: str) -> Exit:
        found = await asyncio.to_thread(leased_draft, self._site.store, self._site.catalog, self._entry())
        if found is None:
            return await self._serve(grant_bytes, folder, None)
        lease, draft = found
        with lease:
            return await self._serve(grant_bytes, folder, draft)

    async def _serve(self, grant_bytes: int, folder: str, draft: DraftSpec | None) -> Exit:
        if not self._wanted:
            return Exit(ending=Ending.ASKED, reason="it was stopped")
        placing = self._placing = asyncio.create_task(self._place(grant_bytes, folder, draft))
        try:
            await asyncio.wait({placing})
        finally:
            placing.cancel()
            self._placing = None
        if placing.cancelled():
            return Exit(ending=Ending.ASKED, reason="it was stopped")
        placed, settings = placing.result(), self._site.settings
        spec = placed.spec
        self._worker = WorkerProcess(spec, self._sitter, load_timeout_s=settings.load_timeout_s,
                                     hang_timeout_s=settings.hang_timeout_s, command=placed.command)
        log.info("model.loading", model=f"{spec.name}@{spec.version}", engine=spec.engine, provider=spec.provider,
                 reason=self.devices.reason, memory_bytes=grant_bytes)
        return await self._worker.run()

    async def _place(self, grant_bytes: int, folder: str, draft: DraftSpec | None) -> Placed:
        # What knows hardware is imported when the first model loads: the start of the daemon needs none of it.
        await asyncio.to_thread(import_module, "edged.daemon.placing")
        from edged.daemon.placing import find_place

        placed = await find_place(self._site, self._manifest, self._entry(), folder=folder, only=self.devices.only,
                                  memory_bytes=grant_bytes, draft=draft)
        self.devices.place(placed.serve)
        self._placed = placed
        return placed

