"""One version of one model: its worker, the requests it has and those that wait for it.

Owner of all of that, in one event loop. The router decides when it starts, stops and takes work (`begin_load`,
`begin_stop`, `take_work`); everything else here is a reaction to a caller or to the worker. A reaction changes this
model's own state and calls `site.changed`, upon which the router looks at all models anew.
"""

from __future__ import annotations

import structlog

from edged.daemon import refusals
from edged.daemon.failures import revive
from edged.daemon.generation import Generation, Phase, Routed, content_hash
from edged.daemon.overview import overview
from edged.daemon.policy import Live, Want
from edged.daemon.policy import Phase as MemoryPhase
from edged.daemon.process import Ending, Exit
from edged.daemon.requests import Requests
from edged.daemon.seat import Seat
from edged.daemon.site import Site
from edged.daemon.spec import task_of
from edged.daemon.status import ModelState, ModelStatus, Served
from edged.daemon.stay import Stay
from edged.daemon.suspects import Identity
from edged.daemon.traffic import Traffic
from edged.daemon.waiters import Waiters
from edged.daemon.wish import Told, Wish
from edged.errors import AdapterNotFound, EdgedError, InsufficientMemory, Internal
from edged.ipc.messages import Cancel, Forget, Pause, Resume, Submit
from edged.store.entries import Manifest, ModelEntry
from edged.task import check_task
from edged.types import Event, Failed, Finished, ModelInfo, Request, Started, Task, WorkerStats

log = structlog.get_logger("edged.daemon")


class Model:
    def __init__(self, manifest: Manifest, site: Site) -> None:
        self.manifest = manifest
        self.key = f"{manifest.name}@{manifest.version}"
        self.state = ModelState.ABSENT
        self.requests = Requests()
        self.breaker = site.breaker()
        self.stay = Stay(lambda: self.entry, site.settings.keep_alive_s)
        self._site = site
        self._seat = Seat(manifest, site, lambda: self.entry, self)
        self._traffic = Traffic(site.metrics, manifest.name)
        self._loaders = Waiters()
        self._unloaders = Waiters()
        #: An unload was asked: what has a lower ticket is still served, then the worker stops.
        self._leave_ticket: int | None = None
        self.wish = Wish()
        self._used = site.clock()
        #: It has loaded, and has not had what it was loaded for.
        self.fresh = False
        #: Somebody wanted it since the daemon started.
        self.asked = False
        self._reloaded = False
        self._restarts = 0
        self._error: EdgedError | None = None

    # What it is

    @property
    def entry(self) -> ModelEntry:
        return self._site.catalog.current.models.get(self.manifest.name) or ModelEntry(name=self.manifest.name)

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.manifest.adapters)

    @property
    def task(self) -> Task:
        """What it was loaded for, else what it would be loaded for."""
        info = self._seat.info
        return info.task if info is not None else task_of(self.manifest, self.entry)

    @property
    def ready(self) -> bool:
        return self.state is ModelState.READY

    @property
    def ticket(self) -> int | None:
        """Of the oldest that waits for this model in the daemon."""
        tickets = (self.requests.oldest_waiting(), self._loaders.oldest(), self.wish.ticket)
        return min((ticket for ticket in tickets if ticket is not None), default=None)

    @property
    def pid(self) -> int | None:
        return self._seat.pid

    @property
    def unasked(self) -> bool:
        """It comes back after a restart, and nobody waits for it."""
        return self.wish.comes_back and not (self.requests or self.stay.pinned) and self._loaders.oldest() is None

    def live(self) -> Live | None:
        """For the policy; None while it holds no memory."""
        if self.state is ModelState.ABSENT:
            return None
        return Live(
            key=self.key, held_bytes=self._seat.held_bytes, phase=MemoryPhase[self.state.name], unasked=self.unasked,
            busy=bool(self.requests.active) or (self.fresh and self.ticket is not None), pinned=self.stay.pinned,
            ticket=None if self.unasked else self.ticket, used=0.0 if self._reloaded and not self.asked else self._used,
            load_s=self._seat.load_s, rate=self._site.habits.rate(self.manifest.name, self._site.clock()))

    def want(self) -> Want | None:
        """For the policy; None unless somebody waits for it to be loaded."""
        if self.state in (ModelState.LOADING, ModelState.READY) or (ticket := self.ticket) is None:
            return None
        need_bytes, least_bytes = self._seat.need_bytes()
        return Want(key=self.key, ticket=ticket, need_bytes=need_bytes, least_bytes=least_bytes, unasked=self.unasked)

    def expires_at(self) -> float | None:
        """Monotonic seconds when its keep-alive is over; None while it has work, and when it is to stay."""
        if self.state is not ModelState.READY or self.requests or self.ticket is not None:
            return None
        return self.stay.expires_at(self._used)

    def status(self, *, name: str | None = None, alias_of: str | None = None) -> ModelStatus:
        idle = self.state is ModelState.READY and not self.requests.active
        return overview(
            self, self._seat, idle_s=self._site.clock() - self._used if idle else None, restarts=self._restarts,
            reloaded=self._reloaded, captured=self._site.capture.of(self.manifest.name), error=self._error, name=name,
            alias_of=alias_of)

    # What callers ask

    def accept(self, request: Request, routed: Routed | None = None) -> Generation:
        """It waits for a worker from now on. routed: it named no version. Raises QueueFull, ModelUnavailable,
        SuspectRequest, UnsupportedTask, AdapterNotFound."""
        check_task(request, self.task, self.manifest.name)
        if request.adapter is not None and request.adapter not in self.adapters:
            raise AdapterNotFound(self.manifest.name, request.adapter, self.adapters)
        if self.breaker.open and self.state is ModelState.ABSENT:
            raise refusals.kept_failing(self.manifest.name, self._error)
        if self._site.suspects and self._site.suspects.refuses(self._identity(request), self._site.clock()):
            raise refusals.suspect(self.manifest.name)
        self._refuse_over_limit()
        self.asked = True
        generation = Generation(request, next(self._site.tickets), self, self._site.clock(), cold=not self.ready,
                                routed=routed)
        self.requests.add(generation)
        self._site.habits.used(self.manifest.name, self._site.clock())
        self._site.changed()
        return generation

    async def reach_ready(self, *, keep_alive_s: float | None, pin: bool | None, forgive: bool = True) -> None:
        """forgive: an operator's load, by which what failed is forgotten. Raises what a load can raise, and without it
        ModelUnavailable."""
        if forgive:
            self.forget_failures()
        elif self.breaker.open and self.state is ModelState.ABSENT:
            raise refusals.kept_failing(self.manifest.name, self._error)
        self.stay.say(pin=pin, keep_alive_s=keep_alive_s)
        self.asked = True
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
            error = refusals.unloaded(self.manifest.name)
            self.refuse_waiting(error)
            self.begin_stop(error)
        if self.state is ModelState.ABSENT:
            return
        self._leave_ticket = ticket
        future = self._unloaders.enter(ticket)
        self._site.changed()
        await future

    def forget_failures(self) -> None:
        """The breaker is closed, and the choice of a device is free again."""
        self.breaker.reset()
        self._seat.devices.reset()

    def keep_loaded(self) -> None:
        """Load it for its pin's sake, if it is not loaded."""
        if self.stay.pinned:
            self.preload()

    def preload(self) -> None:
        """Load it before anybody waits for it. What becomes of that is seen in its state."""
        self.stay.retired = False
        if self.state in (ModelState.ABSENT, ModelState.STOPPING) and not self.breaker.open:
            self.wish.make(next(self._site.tickets))
            self._site.changed()

    def come_back(self, told: Told) -> None:
        """Load it if there is room, because it was in memory before a restart. told: once, what became of it."""
        if self.state is not ModelState.ABSENT or self.ticket is not None or self.breaker.open:
            told("asked")
        else:
            self.wish.come_back(told)
            self.preload()

    def unpin(self) -> None:
        self.stay.unpin()
        self.wish.drop()

    def give_up(self, error: EdgedError) -> None:
        """It cannot be loaded, or not any more."""
        self._site.failing(self.manifest, error)
        self.refuse_waiting(error)

    def refuse_waiting(self, error: EdgedError) -> None:
        """Nobody who waits in the daemon will be served."""
        self.wish.drop()
        self.requests.end_waiting(error)
        self._loaders.fail(error)

    def pause(self, generation: Generation) -> None:
        self._seat.tell(Pause(generation.id))

    def resume(self, generation: Generation) -> None:
        self._seat.tell(Resume(generation.id))

    def forget(self) -> None:
        """Its worker drops the KV that it keeps of earlier prompts."""
        self._seat.tell(Forget())

    def cancel(self, generation: Generation) -> None:
        if self.requests.drop(generation):
            self._seat.tell(Cancel(generation.id))
            self._used = self._site.clock()
        generation.end()
        self._site.changed()

    def _identity(self, request: Request) -> Identity:
        return self.manifest.digest, content_hash(request)

    def _refuse_over_limit(self) -> None:
        rows = self._seat.info.rows if self._seat.info else self.entry.rows or 1
        if (count := len(self.requests)) >= rows + self._site.settings.max_queue:
            raise refusals.queue_full(
                self.manifest.name, count, self._traffic.retry_after_s(waiting=count, rows=rows))

    # What the router decides

    def begin_load(self, *, need_bytes: int, grant_bytes: int, everything: bool) -> None:
        """need_bytes are set aside for it; it may take grant_bytes; everything: it could not be given more."""
        self.state = ModelState.LOADING
        self._error = None
        self._seat.take(need_bytes=need_bytes, grant_bytes=grant_bytes, everything=everything)

    def take_work(self) -> None:
        """It is ready and may have all that waits for it."""
        self.fresh = False
        if self._loaders.answer(before=self._leave_ticket):
            self._used = self._site.clock()
        info = self._seat.info
        assert info is not None
        due = self.requests.activate(before=self._leave_ticket)
        served = Served(name=self.manifest.name, version=self.manifest.version, engine=info.engine,
                        device=info.device, digest=self.manifest.digest)
        for generation in due:
            generation.begin(served, self._site.capture.begin(served.name, generation.request))
            self._seat.tell(Submit(generation.request))
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
        self.wish.ended("gave_way")
        self._seat.leave()
        self.requests.end_active(error or Internal(f"the worker of {self.manifest.name} was stopped too early"))

    async def stop(self, error: EdgedError, *, at_once: bool = False) -> None:
        """To its end, within a few seconds."""
        self.begin_stop(error)
        await self._seat.left(at_once=at_once)

    # The worker's life

    def loaded(self, info: ModelInfo) -> None:
        if self.state is not ModelState.LOADING or not self._seat.may_serve(info):
            return
        self._used = self._site.clock()
        self.state, self._reloaded = ModelState.READY, self.wish.loaded()
        self._seat.serves(info)
        self.fresh = True
        self._traffic.loaded(self._seat.load_s)
        log.info("model.ready", model=self.key, device=info.device, load_s=round(self._seat.load_s, 3),
                 reloaded=self._reloaded)
        self._site.changed()

    def events(self, events: list[Event]) -> None:
        now = self._site.clock()
        for event in events:
            # None: its client cancelled while this was under way.
            if (generation := self.requests.active.get(event.id)) is not None:
                self._traffic.saw(generation, event, now)
                self._event(generation, event)

    def _event(self, generation: Generation, event: Event) -> None:
        match event:
            case Failed():
                self._ended(generation, revive(event))
            case Finished():
                generation.feed(event)
                self._site.capture.take(generation)
                self.breaker.reset()
                if self._site.suspects:
                    self._site.suspects.completed(self._identity(generation.request))
                self._ended(generation)
            case _:
                if isinstance(event, Started):
                    generation.phase = Phase.STARTED
                generation.feed(event)

    def _ended(self, generation: Generation, error: EdgedError | None = None) -> None:
        self.requests.end(generation, error)
        self._used = self._site.clock()
        self._site.changed()

    def stats(self, stats: WorkerStats) -> None:
        self._traffic.reported(self._seat.stats, stats)
        if self._seat.told(stats):
            self._site.changed()

    def gone(self, ended: Exit) -> None:
        asked = self.state is ModelState.STOPPING
        self.state = ModelState.ABSENT
        self._leave_ticket, self.stay.retired, self.fresh, self._reloaded = None, False, False, False
        self.wish.ended("failed")
        if asked:
            log.info("model.unloaded", model=self.key)
        elif ended.refused is not None:
            self._refused(ended.refused)
        elif ended.ending is Ending.LOST:
            self._lost(ended)
        else:
            self._died(ended)
        self._unloaders.answer()
        self._site.changed()

    def _refused(self, error: EdgedError) -> None:
        if isinstance(error, InsufficientMemory) and self._seat.appetite.wants_more():
            return
        self._error = error
        log.warning("model.refused", model=self.key, error=error.message)
        self.give_up(error)

    def _lost(self, ended: Exit) -> None:
        """It comes back on its device or not at all, or on the processor where the catalog lets it."""
        name, devices = self.manifest.name, self._seat.devices
        provider, falls_back = str(devices.provider), devices.gone(ended.reason)
        log.error("device.lost", model=self.key, provider=provider, reason=ended.reason, falls_back=falls_back,
                  requests=len(self.requests.active))
        self._traffic.device_lost()
        self.breaker.died(self._site.clock(), loading=False)
        self._error = (refusals.fell_back if falls_back else refusals.device_lost)(name, provider, ended.reason)
        self.requests.survive(self._error, self._error)
        if self.breaker.open:
            self.give_up(refusals.kept_failing(name, self._error))
        else:
            self.keep_loaded()

    def _died(self, ended: Exit) -> None:
        if ended.loaded:
            self._seat.devices.gone(None)
        name, now, reason = self.manifest.name, self._site.clock(), ended.reason
        log.error("model.died", model=self.key, reason=reason, exit_code=ended.code, loaded=ended.loaded,
                  requests=len(self.requests.active), last_lines=list(ended.last_lines))
        self._restarts += 1
        self._traffic.died()
        self.breaker.died(now, loading=not ended.loaded)
        lost = self.requests.survive(refusals.died_answering(name, reason), refusals.died_before_start(name, reason))
        for generation in lost:
            self._site.suspects.was_running(self._identity(generation.request), now)
        if ended.loaded:
            self._error = refusals.died(name, reason)
        else:
            self._error = refusals.died_loading(name, self.manifest.file, reason)
            self._loaders.fail(self._error)
        if self.breaker.open:
            self.give_up(refusals.kept_failing(name, self._error))
        elif ended.ending is Ending.KILLED and not ended.loaded:
            # It had its load timeout already; those who wait are not made to wait for as long again.
            self.give_up(self._error)
        else:
            self.keep_loaded()
