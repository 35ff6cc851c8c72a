"""One version of one model: its worker, the requests it has and those that wait for it.

Owner of all of that, in one event loop. The router decides when it starts, stops and takes work (`begin_load`,
`begin_stop`, `take_work`); everything else here is a reaction to a caller or to the worker. A reaction changes this
model's own state and calls `site.changed`, upon which the router looks at all models anew.
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial

import structlog

from edged.daemon.appetite import Appetite
from edged.daemon.failures import revive
from edged.daemon.footprint import estimate
from edged.daemon.generation import Generation, Phase, content_hash
from edged.daemon.life import live
from edged.daemon.policy import Live, Want, expires_at
from edged.daemon.policy import Phase as MemoryPhase
from edged.daemon.process import Ending, Exit, WorkerProcess
from edged.daemon.requests import Requests
from edged.daemon.site import Site
from edged.daemon.spec import load_spec
from edged.daemon.status import ModelState, ModelStatus, Served
from edged.daemon.suspects import Identity
from edged.daemon.traffic import Traffic
from edged.daemon.waiters import Waiters
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
from edged.ipc.messages import Cancel, Pause, Resume, Submit, ToWorker
from edged.store.entries import Manifest, ModelEntry
from edged.types import Event, Failed, Finished, GenerateRequest, ModelInfo, Started, WorkerStats

log = structlog.get_logger("edged.daemon")

class Model:
    def __init__(self, manifest: Manifest, site: Site) -> None:
        self.manifest = manifest
        self.key = f"{manifest.name}@{manifest.version}"
        self.state = ModelState.ABSENT
        self.requests = Requests()
        self.breaker = site.breaker()
        self._site = site
        self._traffic = Traffic(site.metrics, manifest.name)
        self._loaders = Waiters()
        self._unloaders = Waiters()
        #: An unload was asked: what has a lower ticket is still served, then the worker stops.
        self._leave_ticket: int | None = None
        #: It is to be loaded though nobody waits for it: pinned.
        self._pin_ticket: int | None = None
        self._pin_said: bool | None = None
        self._keep_alive_said_s: float | None = None
        self._worker: WorkerProcess | None = None
        self._life: asyncio.Task[None] | None = None
        self._info: ModelInfo | None = None
        self._stats = WorkerStats()
        self._appetite = Appetite(manifest.digest, site.footprints)
        self._used = self._load_began = site.clock()
        self._restarts = 0
        self._error: EdgedError | None = None

    # What it is

    @property
    def entry(self) -> ModelEntry:
        return self._site.catalog.current.models.get(self.manifest.name) or ModelEntry(name=self.manifest.name)

    @property
    def pinned(self) -> bool:
        return self.entry.pin if self._pin_said is None else self._pin_said

    @property
    def keep_alive_s(self) -> float:
        said = (self._keep_alive_said_s, self.entry.keep_alive_s, self._site.settings.keep_alive_s)
        return next(seconds for seconds in said if seconds is not None)

    @property
    def ticket(self) -> int | None:
        """Of the oldest that waits for this model in the daemon."""
        tickets = (self.requests.oldest_waiting(), self._loaders.oldest(), self._pin_ticket)
        return min((ticket for ticket in tickets if ticket is not None), default=None)

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    def live(self) -> Live | None:
        """For the policy; None while it holds no memory."""
        if self.state is ModelState.ABSENT:
            return None
        return Live(
            key=self.key, held_bytes=self._appetite.held_bytes(loaded=self._info is not None),
            phase=MemoryPhase[self.state.name],
            busy=bool(self.requests.active), pinned=self.pinned, ticket=self.ticket, used=self._used,
        )

    def want(self) -> Want | None:
        """For the policy; None unless somebody waits for it to be loaded."""
        if self.state in (ModelState.LOADING, ModelState.READY) or (ticket := self.ticket) is None:
            return None
        least_bytes = estimate(self.manifest, self.entry)
        need_bytes = self._appetite.need_bytes(least_bytes)
        return Want(key=self.key, ticket=ticket, need_bytes=need_bytes, least_bytes=min(need_bytes, least_bytes))

    def expires_at(self) -> float | None:
        """Monotonic seconds when its keep-alive is over; None while it has work, and when it is to stay."""
        if self.state is not ModelState.READY or self.requests or self.ticket is not None:
            return None
        return expires_at(idle_since=self._used, keep_alive_s=self.keep_alive_s, pinned=self.pinned)

    def status(self, *, name: str | None = None, alias_of: str | None = None) -> ModelStatus:
        manifest, info, stats, requests = self.manifest, self._info, self._stats, self.requests
        broken = self.breaker.open and self.state is ModelState.ABSENT
        idle = self.state is ModelState.READY and not requests.active
        running = requests.running()
        return ModelStatus(
            name=name or manifest.name, version=manifest.version, digest=manifest.digest, engine=manifest.engine,
            precision=manifest.precision, size=manifest.size, parameters=manifest.parameters or self.entry.parameters,
            context=info.context if info else None, device=info.device if info else None,
            state=ModelState.BROKEN if broken else self.state, pinned=self.pinned, keep_alive_s=self.keep_alive_s,
            idle_s=self._site.clock() - self._used if idle else None, running=running,
            waiting=len(requests) - running, resident_bytes=stats.resident_bytes,
            kv_used_tokens=stats.kv_used_tokens, kv_tokens=info.kv_tokens if info else 0,
            load_s=info.load_s if info else None, rows=info.rows if info else None, restarts=self._restarts,
            alias_of=alias_of, created=manifest.created, error=self._error.message if self._error else None,
        )

    # What callers ask

    async def generate(self, request: GenerateRequest) -> Generation:
        """Returns once a worker has it. Raises what Router.generate says."""
        if self.breaker.open and self.state is ModelState.ABSENT:
            raise self._unavailable()
        if self._site.suspects and self._site.suspects.refuses(self._identity(request), self._site.clock()):
            raise SuspectRequest(
                f"this request was running both times when the worker of {self.manifest.name} died, so it is not tried "
                "again; change it, or send it to another model")
        self._refuse_over_limit()
        generation = Generation(request, next(self._site.tickets), self, self._site.clock())
        self.requests.add(generation)
        self._site.changed()
        try:
            await generation.accepted
        except asyncio.CancelledError:
            await generation.cancel()
            raise
        return generation

    async def reach_ready(self, *, keep_alive_s: float | None, pin: bool | None) -> None:
        """An operator's load: closes the breaker. Raises what a load can raise."""
        self.breaker.reset()
        self._pin_said = self._pin_said if pin is None else pin
        self._keep_alive_said_s = self._keep_alive_said_s if keep_alive_s is None else keep_alive_s
        if self.state is ModelState.READY and self._leave_ticket is None:
            self._used = self._site.clock()
            return
        future = self._loaders.enter(next(self._site.tickets))
        self._site.changed()
        await future

    async def reach_absent(self, *, force: bool) -> None:
        """Serve what came before, then stop; with force, end what there is. Takes the pin away."""
        self.unpin()
        ticket = next(self._site.tickets)
        if force:
            error = ModelUnavailable(f"{self.manifest.name} was unloaded; send the request again to load it")
            self.refuse_waiting(error)
            self.begin_stop(error)
        if self.state is ModelState.ABSENT:
            return
        self._leave_ticket = ticket
        future = self._unloaders.enter(ticket)
        self._site.changed()
        await future

    def keep_loaded(self) -> None:
        """Load it for its pin's sake, if it is not loaded."""
        if self.pinned and self.state in (ModelState.ABSENT, ModelState.STOPPING) and not self.breaker.open:
            self._pin_ticket = next(self._site.tickets)
            self._site.changed()

    def unpin(self) -> None:
        self._pin_said, self._pin_ticket = False, None

    def repin(self) -> None:
        """The catalog's word on the pin holds again."""
        self._pin_said = None
        self.keep_loaded()

    def refuse_waiting(self, error: EdgedError) -> None:
        """Nobody who waits in the daemon will be served."""
        self._pin_ticket = None
        self.requests.end_waiting(error)
        self._loaders.fail(error)

    def pause(self, generation: Generation) -> None:
        self._tell_worker(Pause(generation.id))

    def resume(self, generation: Generation) -> None:
        self._tell_worker(Resume(generation.id))

    def cancel(self, generation: Generation) -> None:
        if self.requests.drop(generation):
            self._tell_worker(Cancel(generation.id))
            self._used = self._site.clock()
        generation.end()
        self._site.changed()

    def _tell_worker(self, message: ToWorker) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def _identity(self, request: GenerateRequest) -> Identity:
        return self.manifest.digest, content_hash(request)

    def _refuse_over_limit(self) -> None:
        rows = self._info.rows if self._info else self.entry.rows or 1
        if (count := len(self.requests)) >= rows + self._site.settings.max_queue:
            raise QueueFull(
                f"{count} requests run or wait for {self.manifest.name} already; send this one again later (the limit "
                "is max_queue in the server's settings)",
                retry_after_s=self._traffic.retry_after_s(waiting=count, rows=rows),
            )

    # What the router decides

    def begin_load(self, *, need_bytes: int, grant_bytes: int, everything: bool) -> None:
        """need_bytes are set aside for it; it may take grant_bytes; everything: it could not be given more."""
        self.state = ModelState.LOADING
        self._appetite.give(need_bytes, everything=everything)
        self._error = None
        self._load_began = self._site.clock()
        # Its log entries are nobody's request: it outlives the one that caused it.
        self._life = asyncio.create_task(
            self._live(grant_bytes), name=f"model {self.key}", context=contextvars.Context())

    def take_work(self) -> None:
        """It is ready and may have all that waits for it."""
        if self._loaders.answer(before=self._leave_ticket):
            self._used = self._site.clock()
        info = self._info
        assert info is not None
        due = self.requests.activate(before=self._leave_ticket)
        served = Served(name=self.manifest.name, version=self.manifest.version, engine=info.engine,
                        device=info.device, digest=self.manifest.digest)
        for generation in due:
            generation.begin(served)
            self._tell_worker(Submit(generation.request))
        if due:
            self._used = self._site.clock()

    def leave_if_done(self) -> None:
        """An unload that waited for older requests may go on."""
        if self._leave_ticket is None or self.requests.active:
            return
        if self.ticket is None or self.ticket > self._leave_ticket:
            self.begin_stop()

    def begin_stop(self, error: EdgedError | None = None) -> None:
        """error: what requests get that the worker still has; None where it has none."""
        if self.state not in (ModelState.LOADING, ModelState.READY):
            return
        self.state = ModelState.STOPPING
        if self._worker is not None:
            self._worker.stop()
        self.requests.end_active(error or Internal(f"the worker of {self.manifest.name} was stopped too early"))

    async def stop(self, error: EdgedError, *, at_once: bool = False) -> None:
        """To its end, within a few seconds."""
        self.begin_stop(error)
        if at_once and self._worker is not None:
            self._worker.kill()
        if self._life is not None:
            await asyncio.wait([self._life])

    # The worker's life

    async def _live(self, grant_bytes: int) -> None:
        self._gone(await live(self._site.store, self.manifest, partial(self._run_worker, grant_bytes)))

    async def _run_worker(self, grant_bytes: int, folder: str) -> Exit:
        if self.state is not ModelState.LOADING:
            return Exit(ending=Ending.ASKED, reason="it was stopped")
        settings = self._site.settings
        spec = load_spec(self.manifest, self.entry, folder=folder, memory_bytes=grant_bytes,
                         log_prompts=settings.log_prompts)
        self._worker = WorkerProcess(spec, self, load_timeout_s=settings.load_timeout_s,
                                     hang_timeout_s=settings.hang_timeout_s, command=self._site.worker_command)
        log.info("model.loading", model=self.key, engine=spec.engine, memory_bytes=grant_bytes)
        return await self._worker.run()

    def loaded(self, info: ModelInfo) -> None:
        if self.state is not ModelState.LOADING:
            return
        self._used = self._site.clock()
        self.state, self._info = ModelState.READY, info
        self._pin_ticket = None
        self._appetite.satisfied()
        load_s = self._used - self._load_began
        self._traffic.loaded(load_s)
        log.info("model.ready", model=self.key, device=info.device, load_s=round(load_s, 3))
        self._site.changed()

    def events(self, events: list[Event]) -> None:
        for event in events:
            # None: its client cancelled while this was under way.
            if (generation := self.requests.active.get(event.id)) is not None:
                self._traffic.saw(generation, event, self._site.clock())
                self._event(generation, event)

    def _event(self, generation: Generation, event: Event) -> None:
        match event:
            case Failed():
                self._ended(generation, revive(event))
            case Finished():
                generation.feed(event)
                self.breaker.reset()
                if self._site.suspects:
                    self._site.suspects.completed(self._identity(generation.request))
                self._ended(generation)
            case Started():
                generation.phase = Phase.STARTED
                generation.feed(event)
            case _:
                generation.feed(event)

    def _ended(self, generation: Generation, error: EdgedError | None = None) -> None:
        self.requests.end(generation, error)
        self._used = self._site.clock()
        self._site.changed()

    def stats(self, stats: WorkerStats) -> None:
        self._traffic.reported(self._stats, stats)
        self._stats = stats
        self._appetite.saw(stats.resident_bytes)

    def _gone(self, ended: Exit) -> None:
        """The memory is free and nothing more is heard of the worker."""
        if ended.loaded:
            self._appetite.ended()
        asked = self.state is ModelState.STOPPING
        self.state = ModelState.ABSENT
        self._worker = self._life = self._info = self._leave_ticket = None
        self._stats = WorkerStats()
        if asked:
            log.info("model.unloaded", model=self.key)
        elif ended.refused is not None:
            self._refused(ended.refused)
        else:
            self._died(ended)
        self._unloaders.answer()
        self._site.changed()

    def _refused(self, error: EdgedError) -> None:
        if isinstance(error, InsufficientMemory) and self._appetite.wants_more():
            return
        self._error = error
        log.warning("model.refused", model=self.key, error=error.message)
        self.refuse_waiting(error)

    def _died(self, ended: Exit) -> None:
        name, now, reason = self.manifest.name, self._site.clock(), ended.reason
        log.error("model.died", model=self.key, reason=reason, exit_code=ended.code, loaded=ended.loaded,
                  requests=len(self.requests.active), last_lines=list(ended.last_lines))
        self._restarts += 1
        self._traffic.died()
        self.breaker.died(now, loading=not ended.loaded)
        lost = self.requests.survive(
            WorkerDied(f"the worker of {name} died while it answered ({reason}); it is started again: send the request "
                       "again"),
            WorkerDied(f"the worker of {name} died three times before it could start this request ({reason})"))
        for generation in lost:
            self._site.suspects.was_running(self._identity(generation.request), now)
        if ended.loaded:
            self._error = WorkerDied(f"the worker of {name} died: {reason}")
        else:
            self._error = LoadFailed(f"the worker of {name} died while it loaded the model: {reason}")
            self._loaders.fail(self._error)
        if self.breaker.open:
            self.refuse_waiting(self._unavailable())
        elif ended.ending is Ending.KILLED and not ended.loaded:
            # It had its load timeout already; those who wait are not made to wait for as long again.
            self.refuse_waiting(self._error)
        else:
            self.keep_loaded()

    def _unavailable(self) -> ModelUnavailable:
        name, last = self.manifest.name, self._error
        why = f" ({last.message})" if last else ""
        return ModelUnavailable(
            f"{name} kept failing and is not started again by itself{why}. When the cause is mended, "
            f"`edged load {name}` starts it"
        )
