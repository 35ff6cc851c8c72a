"""One version of one model: its worker, the requests it has and those that wait for it.

Owner of all of that, in one event loop. The router decides when it starts, stops and takes work (`begin_load`,
`begin_stop`, `submit_waiting`); everything else here is a reaction to a request or to the worker. No method waits for
another's state: each changes it and calls `site.changed`, upon which the router looks at all models anew.

Requests go waiting → active → ended. A death of the worker ends those that had started and puts the others back.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from edged.daemon.breaker import Breaker
from edged.daemon.failures import revive
from edged.daemon.footprint import Footprints, estimate
from edged.daemon.generation import Generation, Phase, content_hash
from edged.daemon.metrics import Metrics
from edged.daemon.policy import Live, Want, expires_at
from edged.daemon.policy import Phase as MemoryPhase
from edged.daemon.process import Exit, WorkerProcess
from edged.daemon.status import ModelState, ModelStatus, Served
from edged.daemon.suspects import Suspects
from edged.daemon.traffic import Traffic
from edged.errors import (
    EdgedError,
    InsufficientMemory,
    Internal,
    LoadFailed,
    ModelUnavailable,
    QueueFull,
    SuspectRequest,
    WorkerDied,
)
from edged.ipc.messages import Cancel, Pause, Resume, Submit
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile
from edged.store.entries import Manifest, ModelEntry
from edged.types import (
    Event,
    Failed,
    Finished,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Started,
    WorkerStats,
)

log = structlog.get_logger("edged.daemon")


@dataclass(frozen=True, slots=True)
class Site:
    """What all models of one daemon share."""

    settings: Settings
    store: Store
    catalog: CatalogFile
    metrics: Metrics
    footprints: Footprints
    suspects: Suspects
    changed: Callable[[], None]
    breaker: Callable[[], Breaker]
    worker_command: Sequence[str]
    clock: Callable[[], float] = time.monotonic


class Model:
    def __init__(self, manifest: Manifest, site: Site) -> None:
        self.manifest = manifest
        self.key = f"{manifest.name}@{manifest.version}"
        self.state = ModelState.ABSENT
        self.waiting: list[Generation] = []
        self.active: dict[str, Generation] = {}
        #: Explicit loads: ticket and who waits for it.
        self.loaders: list[tuple[int, asyncio.Future[None]]] = []
        #: Requests older than this are still served, then the worker stops; None: nobody asked to unload.
        self.leave_ticket: int | None = None
        self.breaker = site.breaker()
        self.restarts = 0
        self._site = site
        self._pin_said: bool | None = None
        self._keep_alive_said_s: float | None = None
        self._unloaders: list[asyncio.Future[None]] = []
        self._worker: WorkerProcess | None = None
        self._life: asyncio.Task[None] | None = None
        self._info: ModelInfo | None = None
        self._stats = WorkerStats()
        self._peak_bytes = 0
        self._need_bytes = 0
        self._grant_bytes = 0
        self._wants_all = False
        self._used = site.clock()
        self._load_began = 0.0
        self._error: EdgedError | None = None
        self._stop_error: EdgedError | None = None
        self._traffic = Traffic(site.metrics, manifest.name)

    # What it is

    @property
    def entry(self) -> ModelEntry:
        return self._site.catalog.current.models.get(self.manifest.name) or ModelEntry(name=self.manifest.name)

    @property
    def pinned(self) -> bool:
        return self.entry.pin if self._pin_said is None else self._pin_said

    @property
    def keep_alive_s(self) -> float:
        for said in (self._keep_alive_said_s, self.entry.keep_alive_s):
            if said is not None:
                return said
        return self._site.settings.keep_alive_s

    @property
    def busy(self) -> bool:
        return bool(self.active)

    @property
    def ticket(self) -> int | None:
        """Of the oldest that waits here."""
        tickets = [generation.ticket for generation in self.waiting[:1]] + [ticket for ticket, _ in self.loaders]
        return min(tickets, default=None)

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    def live(self) -> Live | None:
        """For the policy; None while it holds no memory."""
        if self.state is ModelState.ABSENT:
            return None
        leaving = self.leave_ticket is not None
        phase = {ModelState.LOADING: MemoryPhase.LOADING, ModelState.READY: MemoryPhase.READY}.get(
            self.state, MemoryPhase.STOPPING)
        return Live(
            key=self.key, held_bytes=self._held_bytes(), phase=phase, busy=self.busy,
            pinned=self.pinned and not leaving, ticket=self.ticket, used=self._used,
        )

    def want(self, budget_bytes: int) -> Want | None:
        """For the policy; None unless somebody waits for it to be loaded."""
        ticket = self.ticket
        if self.state in (ModelState.LOADING, ModelState.READY) or ticket is None:
            return None
        return Want(key=self.key, ticket=ticket, need_bytes=self._needs(budget_bytes))

    def _needs(self, budget_bytes: int) -> int:
        """An engine fits its KV into what it may take, so one measured large may still be tried in a small budget."""
        least_bytes = estimate(self.manifest)
        need_bytes = self._site.footprints.get(self.manifest.digest) or least_bytes
        if self._wants_all or need_bytes > budget_bytes >= least_bytes:
            return budget_bytes
        return need_bytes

    def _held_bytes(self) -> int:
        """Loading: what was set aside. Then the most it was seen to take, in this life or the one before."""
        if self._info is None:
            return self._need_bytes
        return max(self._peak_bytes, self._site.footprints.get(self.manifest.digest) or 0) or self._need_bytes

    def expires_at(self) -> float | None:
        if self.state is not ModelState.READY or self.active or self.waiting or self.loaders:
            return None
        return expires_at(idle_since=self._used, keep_alive_s=self.keep_alive_s, pinned=self.pinned)

    def status(self, alias_of: str | None = None, name: str | None = None) -> ModelStatus:
        manifest, info, stats = self.manifest, self._info, self._stats
        running = sum(generation.phase is Phase.STARTED for generation in self.active.values())
        broken = self.breaker.open and self.state is ModelState.ABSENT
        idle = self.state is ModelState.READY and not self.active
        return ModelStatus(
            name=name or manifest.name, version=manifest.version, digest=manifest.digest, engine=manifest.engine,
            precision=manifest.precision, size=manifest.size, parameters=manifest.parameters or self.entry.parameters,
            context=info.context if info else None, device=info.device if info else None,
            state=ModelState.BROKEN if broken else self.state, pinned=self.pinned, keep_alive_s=self.keep_alive_s,
            idle_s=self._site.clock() - self._used if idle else None, running=running,
            waiting=len(self.active) - running + len(self.waiting), resident_bytes=stats.resident_bytes,
            kv_used_tokens=stats.kv_used_tokens, kv_tokens=info.kv_tokens if info else 0,
            load_s=info.load_s if info else None, rows=info.rows if info else None, restarts=self.restarts,
            alias_of=alias_of, created=manifest.created, error=self._error.message if self._error else None,
        )

    # Requests

    async def generate(self, request: GenerateRequest, ticket: int) -> Generation:
        """Returns once a worker has it. Raises what Router.generate says."""
        self._refuse_broken()
        self._refuse_suspect(request)
        self._refuse_over_limit()
        generation = Generation(request, ticket, self, self._site.clock())
        self.waiting.append(generation)
        self._site.changed()
        try:
            await generation.accepted
        except asyncio.CancelledError:
            await generation.cancel()
            raise
        return generation

    async def reach_ready(self, ticket: int, *, keep_alive_s: float | None, pin: bool | None) -> None:
        """An operator's load: closes the breaker. Raises what a load can raise."""
        self.breaker.reset()
        self._pin_said = self._pin_said if pin is None else pin
        self._keep_alive_said_s = self._keep_alive_said_s if keep_alive_s is None else keep_alive_s
        await self._waiter(lambda future: self.loaders.append((ticket, future)))

    async def reach_absent(self, ticket: int, *, force: bool) -> None:
        """Serve what came before `ticket`, then stop; with force, end what there is."""
        self._pin_said = False
        if force:
            self.begin_stop(ModelUnavailable(f"{self.manifest.name} was unloaded; send the request again to load it"))
            self.refuse_waiting(ModelUnavailable(f"{self.manifest.name} was unloaded; send the request again"))
        if self.state is ModelState.ABSENT:
            return
        self.leave_ticket = ticket
        await self._waiter(self._unloaders.append)

    async def _waiter(self, note: Callable[[asyncio.Future[None]], None]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        note(future)
        self._site.changed()
        try:
            await future
        finally:
            self.loaders = [(ticket, waiter) for ticket, waiter in self.loaders if waiter is not future]
            self._site.changed()

    def submit_waiting(self) -> None:
        """Only the router calls it: the model is ready and may have new work."""
        if self.leave_ticket is None:
            self._answer_loaders()
        due = [one for one in self.waiting if self.leave_ticket is None or one.ticket < self.leave_ticket]
        if not due:
            return
        assert self._worker is not None
        self.waiting = self.waiting[len(due):]
        for generation in due:
            generation.begin(self._served())
            self.active[generation.id] = generation
            self._worker.send(Submit(generation.request))
        self._used = self._site.clock()

    def refuse_waiting(self, error: EdgedError) -> None:
        """Nobody who waits will be served."""
        waiting, self.waiting = self.waiting, []
        for generation in waiting:
            generation.end(error)
        for _, future in self.loaders:
            if not future.done():
                future.set_exception(error)
        self.loaders = []

    def pause(self, generation: Generation) -> None:
        if self._worker is not None:
            self._worker.send(Pause(generation.id))

    def resume(self, generation: Generation) -> None:
        if self._worker is not None:
            self._worker.send(Resume(generation.id))

    def cancel(self, generation: Generation) -> None:
        if generation in self.waiting:
            self.waiting.remove(generation)
        elif self.active.pop(generation.id, None) is not None and self._worker is not None:
            self._worker.send(Cancel(generation.id))
            self._used = self._site.clock()
        generation.end()
        self._site.changed()

    def _refuse_broken(self) -> None:
        if self.breaker.open and self.state is ModelState.ABSENT:
            raise self._unavailable()

    def _refuse_suspect(self, request: GenerateRequest) -> None:
        suspects = self._site.suspects
        if suspects and suspects.refuses((self.manifest.digest, content_hash(request)), self._site.clock()):
            raise SuspectRequest(
                f"this request was running both times when the worker of {self.manifest.name} died, so it is not tried "
                "again; change it, or try it on another model"
            )

    def _refuse_over_limit(self) -> None:
        limit = (self._info.rows if self._info else self.entry.rows or 1) + self._site.settings.max_queue
        count = len(self.waiting) + len(self.active)
        if count >= limit:
            rows = self._info.rows if self._info else 1
            raise QueueFull(
                f"{count} requests run or wait for {self.manifest.name} already; try again later, or raise max_queue",
                retry_after_s=self._traffic.retry_after_s(waiting=count, rows=rows),
            )

    def _served(self) -> Served:
        assert self._info is not None
        return Served(name=self.manifest.name, version=self.manifest.version, engine=self._info.engine,
                      device=self._info.device, digest=self.manifest.digest)

    # The worker's life

    def begin_load(self, grant_bytes: int, need_bytes: int) -> None:
        """Only the router calls it: memory is set aside."""
        self.state = ModelState.LOADING
        self._need_bytes, self._grant_bytes = need_bytes, grant_bytes
        self._error = self._stop_error = None
        self._stats, self._peak_bytes = WorkerStats(), 0
        self._load_began = self._site.clock()
        self._life = asyncio.create_task(self._live(), name=f"model {self.key}")

    def begin_stop(self, error: EdgedError | None = None) -> None:
        """error: what requests get that it still has; None where it has none."""
        if self.state not in (ModelState.LOADING, ModelState.READY):
            return
        self.state = ModelState.STOPPING
        self._stop_error = error
        if self._worker is not None:
            self._worker.stop()
        self._end_active(error)

    def finish_leaving(self) -> None:
        """Only the router calls it: an unload that waited for the last request may go on."""
        if self.leave_ticket is None:
            return
        older = any(generation.ticket < self.leave_ticket for generation in self.waiting)
        if self.state is ModelState.READY and not self.active and not older:
            self.begin_stop()

    async def stop(self, error: EdgedError) -> None:
        """To its end, within a few seconds."""
        self.begin_stop(error)
        if self._life is not None:
            await asyncio.wait([self._life])

    async def kill(self, error: EdgedError) -> None:
        self.begin_stop(error)
        if self._worker is not None:
            self._worker.kill()
        if self._life is not None:
            await asyncio.wait([self._life])

    async def _live(self) -> None:
        """From the decision to load until the memory is free again."""
        store, manifest = self._site.store, self.manifest
        try:
            lease = await asyncio.to_thread(store.lease, manifest)
            try:
                folder = await asyncio.to_thread(store.folder, manifest)
                spec = self._spec(str(folder))
                ended = await self._run_worker(spec)
            finally:
                lease.release()
        except EdgedError as error:
            ended = Exit(reason=error.message, refused=error, asked=self.state is ModelState.STOPPING)
        except Exception as error:
            log.exception("model.failed", model=self.key)
            ended = Exit(reason=f"the daemon failed ({type(error).__name__})", refused=Internal(
                f"{manifest.name} could not be loaded; the log of the daemon says why"))
        self._gone(ended)

    async def _run_worker(self, spec: LoadSpec) -> Exit:
        if self.state is not ModelState.LOADING:
            return Exit(reason="it was stopped", asked=True)
        settings = self._site.settings
        self._worker = WorkerProcess(spec, self, load_timeout_s=settings.load_timeout_s,
                                     hang_timeout_s=settings.hang_timeout_s, command=self._site.worker_command)
        log.info("model.loading", model=self.key, engine=spec.engine, memory_bytes=spec.memory_bytes)
        return await self._worker.run()

    def _spec(self, folder: str) -> LoadSpec:
        manifest, entry = self.manifest, self.entry
        return LoadSpec(
            name=manifest.name, version=manifest.version, digest=manifest.digest, engine=manifest.engine, path=folder,
            file=manifest.file, context=entry.context, rows=entry.rows, threads=entry.threads,
            memory_bytes=self._grant_bytes, chat_template=entry.chat_template, sampling=entry.sampling,
            options=entry.options, log_prompts=self._site.settings.log_prompts,
        )

    def loaded(self, info: ModelInfo) -> None:
        if self.state is not ModelState.LOADING:
            return
        now = self._site.clock()
        self.state, self._info, self._used = ModelState.READY, info, now
        self._wants_all = False
        self._traffic.loaded(now - self._load_began)
        log.info("model.ready", model=self.key, device=info.device, load_s=round(now - self._load_began, 3))
        self._site.changed()

    def events(self, events: list[Event]) -> None:
        for event in events:
            generation = self.active.get(event.id)
            if generation is None:
                # Its client cancelled while this was under way.
                continue
            now = self._site.clock()
            self._traffic.saw(generation, event, now)
            match event:
                case Failed():
                    self._end_one(generation, revive(event))
                case Finished():
                    generation.feed(event)
                    self.breaker.reset()
                    self._error = None
                    if self._site.suspects:
                        self._site.suspects.completed((self.manifest.digest, content_hash(generation.request)))
                    self._end_one(generation, None)
                case Started():
                    generation.phase = Phase.STARTED
                    generation.feed(event)
                case _:
                    generation.feed(event)

    def stats(self, stats: WorkerStats) -> None:
        self._traffic.reported(self._stats, stats)
        self._stats = stats
        self._peak_bytes = max(self._peak_bytes, stats.resident_bytes)

    def _gone(self, ended: Exit) -> None:
        """The memory is free and nothing more is heard of the worker."""
        was_ready = self._info is not None
        if ended.loaded:
            self._site.footprints.record(self.manifest.digest, self._peak_bytes)
        stop_error, asked = self._stop_error, self.state is ModelState.STOPPING
        self.state = ModelState.ABSENT
        self._worker = self._life = self._info = self._stop_error = None
        self._stats = WorkerStats()
        if asked:
            log.info("model.unloaded", model=self.key)
            self._end_active(stop_error)
        elif ended.refused is not None:
            self._refused(ended.refused)
        else:
            self._died(ended, loading=not was_ready)
        if not (self.waiting and self.leave_ticket is not None and not asked):
            self.leave_ticket = None
            self._answer(self._unloaders)
            self._unloaders = []
        self._site.changed()

    def _refused(self, error: EdgedError) -> None:
        """Refused for want of memory although others could go: once more, with all there is."""
        if isinstance(error, InsufficientMemory) and not self._wants_all:
            self._wants_all = True
            return
        self._wants_all = False
        self._error = error
        log.warning("model.refused", model=self.key, error=error.message)
        self.refuse_waiting(error)

    def _died(self, ended: Exit, *, loading: bool) -> None:
        now = self._site.clock()
        self.restarts += 1
        self._traffic.died()
        self.breaker.died(now, loading=loading)
        why = ended.reason + (f": {ended.gist}" if ended.gist else "")
        self._error = WorkerDied(f"the worker of {self.manifest.name} died: {why}")
        log.error("model.died", model=self.key, reason=ended.reason, exit_code=ended.code, loading=loading,
                  running=len(self.active), last_lines=list(ended.last_lines))
        active, self.active = self.active, {}
        unstarted = [generation for generation in active.values() if generation.phase is not Phase.STARTED]
        for generation in active.values():
            if generation.phase is Phase.STARTED:
                self._site.suspects.was_running((self.manifest.digest, content_hash(generation.request)), now)
                generation.end(WorkerDied(
                    f"the worker of {self.manifest.name} died while it answered ({why}); it is started again: send the "
                    "request again"))
        for generation in unstarted:
            generation.requeue()
            bisect.insort(self.waiting, generation, key=lambda one: one.ticket)
        if self.breaker.open:
            self.refuse_waiting(self._unavailable())
        elif loading:
            error = LoadFailed(f"the worker of {self.manifest.name} died while loading: {why}")
            for _, future in self.loaders:
                if not future.done():
                    future.set_exception(error)

    def _unavailable(self) -> ModelUnavailable:
        why = f": {self._error.message}" if self._error else ""
        return ModelUnavailable(
            f"{self.manifest.name} is not started any more because it keeps failing{why}. When the cause is mended, "
            f"`edged load {self.manifest.name}` starts it"
        )

    def _end_one(self, generation: Generation, error: EdgedError | None) -> None:
        self.active.pop(generation.id, None)
        self._used = self._site.clock()
        generation.end(error)
        self._site.changed()

    def _end_active(self, error: EdgedError | None) -> None:
        active, self.active = self.active, {}
        for generation in active.values():
            generation.end(error or Internal(f"the worker of {self.manifest.name} was stopped too early"))

    def _answer_loaders(self) -> None:
        self._answer([future for _, future in self.loaders])

    @staticmethod
    def _answer(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)
