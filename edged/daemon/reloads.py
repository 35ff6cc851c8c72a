"""Models that were in memory come back after a restart, in the background, one after another.

    due ─▶ mark (the file says, on the disk, that it is tried) ─▶ load ─▶ back
                                                                   ├─▶ no room, gave way to a client's want
                                                                   └─▶ failed
It begins while no other model loads and no client waits for one. The policy loads it where there is room, and evicts
nothing for it. One that was in memory and went (its keep-alive over, unloaded, crashed, evicted) does not come back.

Never a loop of restarts: what is still marked at the next start took the daemon or the machine with it, or did not come
to an end, and comes back only once somebody has loaded it again; nor does one that nobody asked for in several starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from prometheus_client import Counter

from edged.daemon.model import Model
from edged.daemon.remembered import Due, Kept, LoadedFile, Present, due, to_keep
from edged.daemon.status import ModelState, ReloadOutcome
from edged.errors import EdgedError
from edged.store.locks import Lock, try_lock

#: The file is written around each try, when a model died or was unloaded, and at the end; else no more often than this.
WRITE_EVERY_S = 60.0

log = structlog.get_logger("edged.daemon")


class Reloads:
    """Owner of the file for as long as it holds the lock: of several daemons over one home, one remembers. `settle` is
    one of the router's reactions; it never awaits."""

    def __init__(self, file: LoadedFile, lock: Path | None, *, on: bool, find: Callable[[str], Model],
                 named: Callable[[Model], str], rate: Callable[[str], float], outcomes: Counter,
                 changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        """lock: of the file; None: it is another daemon's. find: the model of that name or name@version; raises
        ModelNotFound, CorruptFile. named: the other way round. rate: uses a second that are expected of a name."""
        self._file, self._lock_path, self._on = file, lock, on
        self._lock: Lock | None = None
        self._find, self._named, self._rate, self._outcomes = find, named, rate, outcomes
        self._changed, self._clock = changed, clock
        self._due: list[Kept] = []
        self._trying: Kept | None = None
        #: What the disk says by now is tried; begun where all is still calm.
        self._marked: Model | None = None
        #: What was unloaded on demand; the file shall soon not name it any more.
        self._unloaded: set[str] = set()
        self._back: list[Kept] = []
        self._written: list[Kept] = []
        self._written_s = -WRITE_EVERY_S
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: The file is to be written without delay.
        self._urgent = False

    def start(self) -> None:
        """Only reads; `settle` begins."""
        self._lock = self._take_lock()
        if self._lock is None:
            self._on = False
            return
        if not self._on:
            # What was in memory now must not come back when it is on again some day.
            with contextlib.suppress(OSError):
                self._file.remove()
            return
        self._written = self._file.read()
        found: Due = due(self._written, self._rate)
        self._due = found.again
        for kept, reason in found.left_out:
            self._tell(kept, "left_out")
            log.warning("reload.left_out", model=kept.model, reason=reason, hint="a request or `edged load` loads it")

    def settle(self, models: list[Model]) -> None:
        """To be called before memory is shared."""
        if not self._on or self._writing is not None:
            return
        if self._marked is not None:
            self._begin(self._marked, models)
        if self._due and self._trying is None and _calm(models):
            self._try_next(models)
        if self._writing is None:
            self._keep(models)

    def forget(self, model: Model) -> None:
        """It was unloaded on demand, perhaps before its turn came."""
        names = {self._named(model), model.key, model.manifest.name}
        self._due = [one for one in self._due if one.model not in names]
        self._unloaded |= names
        if self._trying is not None and self._trying.model in names and not model.wish.comes_back:
            self._tell(self._trying, "gave_way")
            self._trying, self._urgent = None, True

    async def close(self, models: list[Model]) -> None:
        """What is in memory now comes back at the next start, as does what had not had its turn."""
        if self._on:
            self._on = False
            await self._end(models)
        if self._lock is not None:
            self._lock.release()

    async def _end(self, models: list[Model]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait({self._writing})
        waiting = self._due if self._trying is None else [self._trying, *self._due]
        if (kept := to_keep(self._present(models), waiting, self._back)) != self._written:
            await self._write(kept, durable=False)

    def _take_lock(self) -> Lock | None:
        if self._lock_path is None:
            return None
        try:
            if (held := try_lock(self._lock_path)) is None:
                log.info("loaded_models.not_kept", reason="another daemon serves this home and keeps them")
        except OSError as error:
            log.info("loaded_models.not_kept", reason=error.strerror)
            return None
        return held

    def _try_next(self, models: list[Model]) -> None:
        while self._due:
            kept = self._due.pop(0)
            try:
                model = self._find(kept.model)
            except EdgedError as error:
                log.info("reload.gone", model=kept.model, reason=error.message)
                continue
            if model.state is not ModelState.ABSENT or model.breaker.open:
                continue
            self._trying = kept
            marked = Kept(kept.model, trying=True, unused=kept.unused)
            content = to_keep(self._present(models), [marked, *self._due], self._back)
            self._writing = asyncio.create_task(self._mark(model, content), name="reload")
            return

    async def _mark(self, model: Model, content: list[Kept]) -> None:
        marked = await self._write(content, durable=True)
        self._writing = None
        if marked:
            self._marked = model
        else:
            # A try that cannot be marked might be made for ever.
            self._trying, self._due = None, []
        self._changed()

    def _begin(self, model: Model, models: list[Model]) -> None:
        """What became of the others, and of this one, while the disk took the mark, goes before it."""
        self._marked = None
        if self._trying is None:
            return
        if _calm(models):
            log.info("reload.begun", model=model.key)
            model.come_back(self._came_back)
        else:
            self._due.insert(0, self._trying)
            self._trying, self._urgent = None, True

    def _came_back(self, outcome: ReloadOutcome) -> None:
        kept, self._trying = self._trying, None
        if kept is None or not self._on:
            return
        self._tell(kept, outcome)
        log.info("reload.ended", model=kept.model, outcome=outcome)
        if outcome == "ready":
            self._back.append(Kept(kept.model, unused=kept.unused + 1))
        self._urgent = True
        self._changed()

    def _keep(self, models: list[Model]) -> None:
        """Write what is in memory, if it is another than the file says, and the time has come."""
        if self._trying is not None:
            return
        kept = to_keep(self._present(models), self._due, self._back)
        if kept == self._written:
            self._urgent = False
            return
        written = {one.model for one in self._written}
        left = self._unloaded & (written - {one.model for one in kept})
        died = any(model.state is ModelState.ABSENT and model.breaker.deaths and self._named(model) in written
                   for model in models)
        left_s = self._written_s + WRITE_EVERY_S - self._clock()
        if left_s <= 0 or died or left or self._urgent:
            self._urgent = False
            self._writing = asyncio.create_task(self._write_kept(kept), name="loaded models")
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._time_has_come)

    async def _write_kept(self, kept: list[Kept]) -> None:
        await self._write(kept, durable=False)
        self._writing = None
        self._changed()

    def _time_has_come(self) -> None:
        self._timer = None
        self._changed()

    async def _write(self, kept: list[Kept], *, durable: bool) -> bool:
        # Not again before something changes, though it may fail.
        self._written, self._written_s = kept, self._clock()
        self._unloaded &= {one.model for one in kept}
        try:
            await asyncio.to_thread(self._file.write, kept, durable=durable)
        except OSError as error:
            log.info("loaded_models.not_kept", reason=error.strerror)
            return False
        return True

    def _present(self, models: Iterable[Model]) -> list[Present]:
        return [Present(self._named(model), model.asked) for model in models if model.ready and model.stay.lasting]

    def _tell(self, kept: Kept, outcome: ReloadOutcome) -> None:
        self._outcomes.labels(kept.name, outcome).inc()


def _calm(models: list[Model]) -> bool:
    """Nobody waits for a model, and none comes or goes."""
    return all(model.ticket is None and model.state in (ModelState.ABSENT, ModelState.READY) for model in models)
