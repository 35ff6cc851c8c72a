"""Which model answers: the owner of all models' state and of the memory they share.

One run of `_settle` looks at every model, asks the policy, and acts. It runs after every change, in the event loop,
without an await: what it reads is true while it acts. Callers never read a state to decide on a mutation; they ask to
reach a state (`generate`, `load`, `unload`) and wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from edged.daemon import refusals
from edged.daemon.breaker import Breaker
from edged.daemon.capture import LAST_S, Capture
from edged.daemon.footprint import Footprints
from edged.daemon.gauges import set_gauges
from edged.daemon.generation import Generation, untold
from edged.daemon.habits import Habits
from edged.daemon.kv_files import KvFiles
from edged.daemon.memory import Memory
from edged.daemon.metrics import Metrics
from edged.daemon.model import Model
from edged.daemon.names import Resolved, resolve
from edged.daemon.process import COMMAND, TRIAL_COMMAND
from edged.daemon.reloads import Reloads
from edged.daemon.remembered import LoadedFile
from edged.daemon.rollouts import Rollouts, RolloutStatus
from edged.daemon.site import Site, facts_of
from edged.daemon.status import ModelState, ModelStatus, Served
from edged.daemon.succession import Succession
from edged.daemon.suspects import Suspects
from edged.errors import Conflict, CorruptFile, EdgedError, InvalidRequest, ModelNotFound
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile
from edged.store.entries import ActivatedBy, Manifest, ModelEntry
from edged.types import Request

if TYPE_CHECKING:
    from edged.hardware.facts import Facts

__all__ = ["Generation", "ModelState", "ModelStatus", "Router", "Served"]

FOOTPRINTS_FILE = "footprints.json"
HABITS_FILE = "habits.json"
LOADED_FILE = "loaded.json"
ROLLOUTS_FILE = "rollouts.json"

log = structlog.get_logger("edged.daemon")


class Router:
    def __init__(self, settings: Settings, store: Store, catalog: CatalogFile, metrics: Metrics, *,
                 worker_command: Sequence[str] = COMMAND, trial_command: Sequence[str] = TRIAL_COMMAND,
                 breaker: Callable[[], Breaker] = Breaker, facts: Callable[[], Facts] | None = None,
                 remembers: bool = True) -> None:
        """remembers: models in memory come back with the next daemon of this home."""
        self._store, self._catalog, self._metrics = store, catalog, metrics
        self._settings = settings
        self.capture = Capture(settings, catalog, metrics)
        self._site = Site(
            settings=settings, store=store, catalog=catalog, metrics=metrics,
            footprints=Footprints(store.home / FOOTPRINTS_FILE),
            habits=Habits(store.home / HABITS_FILE, time.monotonic()), suspects=Suspects(),
            capture=self.capture,
            tickets=itertools.count(1), changed=self._changed, failing=self._failing, breaker=breaker,
            worker_command=worker_command, trial_command=trial_command,
            facts=facts if facts is not None else partial(facts_of, store.home),
        )
        self._models: dict[str, Model] = {}
        self._memory = Memory(settings)
        self._kv_files = KvFiles(settings)
        self._succession = Succession(self._model, self._changed)
        self._rollouts = Rollouts(store.home / ROLLOUTS_FILE, store, catalog, metrics, self._taken_back)
        self._reloads = Reloads(
            LoadedFile(store.home / LOADED_FILE, store.layout.tmp), store.layout.loaded_lock if remembers else None,
            on=settings.reload_models, find=self._meant, named=self._named, outcomes=metrics.model_reloads,
            rate=lambda name: self._site.habits.rate(name, time.monotonic()), changed=self._changed)
        self._started = False
        self._draining = False
        self._returning: list[tuple[str, Manifest]] = []
        self._settling: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        metrics.on_render(self._set_gauges)

    @property
    def ready(self) -> bool:
        """It can answer, or load what answers."""
        return self._started and not self._draining

    async def start(self) -> None:
        """Pinned models, and those that were in memory before a restart, load in the background."""
        self._started = True
        self._reloads.start()
        self._kv_files.start()
        self.capture.start()
        self._load_pinned()
        self._load_candidates()
        self._changed()

    async def drain(self, grace_s: float) -> None:
        """New requests get ShuttingDown, as do those that no worker has yet; the others may end within grace_s."""
        self._draining = True
        await self._reloads.close(list(self._models.values()))
        self._changed()
        try:
            await asyncio.wait_for(self._quiet.wait(), grace_s)
        except TimeoutError:
            log.warning("drain.deadline", running=sum(len(model.requests) for model in self._models.values()))
        await asyncio.gather(*(model.stop(refusals.shutting_down()) for model in self._models.values()))
        await self._close()

    async def kill(self) -> None:
        """No grace: every request ends now with ShuttingDown."""
        self._draining = True
        await self._reloads.close(list(self._models.values()))
        for model in self._models.values():
            model.refuse_waiting(refusals.shutting_down())
        await asyncio.gather(*(model.stop(refusals.shutting_down(), at_once=True) for model in self._models.values()))
        await self._close(capturing_s=0)

    def models(self) -> list[ModelStatus]:
        """Every installed model, then every alias of one (name: the alias; alias_of: what it stands for). A version
        that is loaded though another is active is told too."""
        found: list[ModelStatus] = []
        for name in self._store.names():
            try:
                found.append(self._status(self._model(self._store.manifest(name))))
            except (ModelNotFound, CorruptFile) as error:
                log.warning("model.unreadable", model=name, error=error.message)
        told = {f"{status.name}@{status.version}" for status in found}
        found += [self._status(model) for key, model in self._models.items()
                  if key not in told and model.state is not ModelState.ABSENT]
        for alias in sorted(self._catalog.current.aliases):
            try:
                found.append(self.status(alias))
            except (ModelNotFound, CorruptFile):
                continue
        return found

    def status(self, model: str) -> ModelStatus:
        resolved = self._resolve(model)
        return self._status(self._model(resolved.manifest), alias_of=resolved.alias_of,
                            name=model if resolved.alias_of else None)

    def described(self, model: str) -> tuple[Manifest, ModelEntry]:
        """The version that a name means, and how the catalog has it served. Raises ModelNotFound, CorruptFile."""
        found = self._model(self._resolve(model).manifest)
        return found.manifest, found.entry

    def catalogued(self, name: str) -> bool:
        return name in self._catalog.current.models

    async def generate(self, model: str, request: Request) -> Generation:
        """Loads the model if needed, which may take minutes. Cancel the call to take the request back.

        Raises ModelNotFound, AdapterNotFound, CorruptFile, QueueFull, InsufficientMemory, LoadFailed, ModelUnavailable,
        ShuttingDown, SuspectRequest, UnsupportedTask, WorkerDied.
        """
        self._refuse_draining()
        resolved = self._resolve(model)
        if not resolved.plain:
            return await self._model(resolved.manifest).accept(request).taken()
        served = self._succession.answering(resolved.manifest)
        if request.adapter is not None and request.adapter not in served.adapters:
            # It may have come with the version that is just being loaded.
            served = self._model(resolved.manifest)
        rollout = self._rollouts.under_way(served.manifest)
        if rollout is None or request.prompt_only:
            return await served.accept(request, untold).taken()
        candidate = self._model(rollout.candidate)
        # Adapters belong to a version: the candidate may have none of that name.
        if (request.adapter is None or request.adapter in candidate.adapters) and rollout.spread.take():
            try:
                generation = candidate.accept(request, partial(self._rollouts.saw, rollout, rollout.candidate.version))
            except EdgedError:
                self._rollouts.refused(rollout)
            else:
                return await generation.taken()
        return await served.accept(request, partial(self._rollouts.saw, rollout, rollout.active)).taken()

    async def load(self, model: str, *, keep_alive_s: float | None = None, pin: bool | None = None,
                   forgive: bool = True) -> ModelStatus:
        """Reach READY; with `forgive`, an operator's word, also a model whose breaker is open. keep_alive_s and pin
        hold until the daemon's end."""
        self._refuse_draining()
        named, answering = self._model(self._resolve(model).manifest), self._meant(model)
        await answering.reach_ready(keep_alive_s=keep_alive_s, pin=pin, forgive=forgive)
        if named is not answering:
            await named.reach_ready(keep_alive_s=None, pin=None, forgive=forgive)
        return self.status(model)

    async def unload(self, model: str, *, force: bool = False) -> ModelStatus:
        """Reach ABSENT, after the requests it has unless force; takes its pin away. A later request loads it again."""
        resolved = self._resolve(model)
        served = self._meant(model)
        self._reloads.forget(served)
        await served.reach_absent(force=force)
        return self._status(served, alias_of=resolved.alias_of, name=model if resolved.alias_of else None)

    async def activate(self, model: str, by: ActivatedBy = "activate") -> ModelStatus:
        """model: `name@version`. The version is loaded first and then answers to the name; the one before it goes on
        until then, ends what it has, and goes on altogether where the new one cannot be loaded: then this raises what
        `load` does. Raises Conflict while another change of the name is under way."""
        resolved = self._resolve(model)
        if resolved.plain:
            raise InvalidRequest(f"say which version of {resolved.manifest.name}, as in {resolved.manifest.name}@"
                                 f"{resolved.manifest.version}; `edged show` lists them", param="model")
        return await self._change(resolved.manifest, by)

    async def rollback(self, model: str) -> ModelStatus:
        """To the version that was active before, in the same way; one after another walks further back. Raises Conflict
        where there is none."""
        name = self._resolve(model).manifest.name
        return await self._change(self._store.manifest(name, self._store.before(name)), "rollback")

    def rollout(self, model: str, *, retry: bool = False) -> RolloutStatus:
        """How the candidate of a name does, beside its active version. retry: try one again that was taken back. Raises
        NotFound where the catalog names none that can be tried."""
        active = self._answering(self._resolve(model).manifest.name).manifest
        if retry:
            self._model(self._rollouts.retry(active).candidate).forget_failures()
            self._load_candidates()
        return self._rollouts.status(active)

    async def reload(self) -> list[str]:
        """Read the catalog again. Returns what changed: entries apply at a model's next load, pins and aliases now.
        Raises ConfigError and keeps the old catalog."""
        changed = self._catalog.reload()
        self.capture.tell()
        self._load_pinned()
        self._load_candidates()
        self._changed()
        log.info("catalog.reloaded", changed=changed)
        return changed

    async def purge(self) -> int:
        """Forget what was computed of clients' prompts, files and what workers hold beside what runs. How many files.
        Raises Conflict where the disk refuses; the workers forget all the same."""
        try:
            # Before the workers hear of it: from then on none writes what it had before.
            return await self._kv_files.purge()
        except OSError as error:
            raise Conflict(f"KV files cannot be removed ({error.strerror}); they stay") from error
        finally:
            for model in self._models.values():
                model.forget()

    def activated(self, manifest: Manifest) -> None:
        """A version was made, by a pull or a conversion, which may have moved its name's pointer."""
        with contextlib.suppress(ModelNotFound, CorruptFile):
            self._answering(manifest.name).keep_loaded()
        self._changed()

    def _refuse_draining(self) -> None:
        if self._draining:
            raise refusals.shutting_down()

    def _resolve(self, model: str) -> Resolved:
        return resolve(model, self._store, self._catalog)

    def _answering(self, name: str) -> Model:
        """The version that answers to the plain name. Raises ModelNotFound, CorruptFile."""
        return self._succession.answering(self._store.manifest(name))

    def _meant(self, model: str) -> Model:
        """What answers to it. Raises ModelNotFound, CorruptFile."""
        resolved = self._resolve(model)
        return self._answering(resolved.manifest.name) if resolved.plain else self._model(resolved.manifest)

    def _named(self, model: Model) -> str:
        """What brings it back, whichever version answers to the name then."""
        return model.manifest.name if self._succession.answers(model) else model.key

    def _model(self, manifest: Manifest) -> Model:
        key = f"{manifest.name}@{manifest.version}"
        if (model := self._models.get(key)) is None:
            model = self._models[key] = Model(manifest, self._site)
            if manifest.version != self._store.manifests.pointer(manifest.name):
                # The name's pin is of its active version.
                model.unpin()
        return model

    def _status(self, model: Model, *, name: str | None = None, alias_of: str | None = None) -> ModelStatus:
        share, candidate = self._rollouts.part_of(model.manifest)
        return msgspec.structs.replace(model.status(name=name, alias_of=alias_of), share=share, candidate=candidate)

    async def _change(self, manifest: Manifest, by: ActivatedBy) -> ModelStatus:
        self._refuse_draining()
        name, version = manifest.name, manifest.version
        new = self._model(manifest)
        await self._succession.change(
            self._store.manifest(name), new,
            lambda: asyncio.to_thread(self._store.activate, name, version, by))
        log.info("model.activated", model=new.key, by=by)
        return self._status(new)

    def _failing(self, manifest: Manifest, error: EdgedError) -> None:
        self._rollouts.failing(manifest, error)
        self._bring_back()

    def _taken_back(self, name: str, candidate: Manifest) -> None:
        self._returning.append((name, candidate))
        self._changed()

    def _bring_back(self) -> None:
        """What waits for a candidate that was taken back, and named no version, is answered by the active one."""
        returning, self._returning = self._returning, []
        for name, candidate in returning:
            with contextlib.suppress(ModelNotFound, CorruptFile):
                self._succession.take_over(self._model(candidate), self._answering(name))

    def _load_candidates(self) -> None:
        """Of names that are loaded, or about to be: nobody shall wait for the load of what is only tried."""
        for name, entry in self._catalog.current.models.items():
            if entry.candidate is None or not entry.share:
                continue
            with contextlib.suppress(ModelNotFound, CorruptFile):
                answering = self._answering(name)
                rollout = self._rollouts.under_way(answering.manifest)
                if rollout is None:
                    log.warning("rollout.none", model=name, reason=self._rollouts.why_none(answering.manifest))
                elif answering.ready or answering.stay.pinned:
                    self._model(rollout.candidate).preload()

    def _load_pinned(self) -> None:
        for entry in self._catalog.current.models.values():
            if entry.pin:
                try:
                    self._answering(entry.name).keep_loaded()
                except (ModelNotFound, CorruptFile) as error:
                    log.warning("pin.failed", model=entry.name, error=error.message)

    def _changed(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = None
        now = time.monotonic()
        self._succession.settle()
        self._bring_back()
        models = list(self._models.values())
        for model in models:
            model.leave_if_done()
        if self._draining:
            for model in models:
                if not model.ready:
                    model.refuse_waiting(refusals.shutting_down())
            yielding: set[str] = set()
        else:
            self._reloads.settle(models)
            yielding = self._memory.share(self._models, now)
        for model in models:
            if model.ready and (model.fresh or model.key not in yielding):
                model.take_work()
        self._expire(models, now)
        if self._draining and not any(model.requests for model in models):
            self._quiet.set()

    def _expire(self, models: list[Model], now: float) -> None:
        """Stop what was idle for its keep-alive; look again when the next one is due, or the next back-off ends."""
        due: list[float] = []
        for model in models:
            if (at := model.expires_at()) is not None:
                if at <= now:
                    log.info("model.idle", model=model.key)
                    model.begin_stop()
                else:
                    due.append(at)
            if model.ticket is not None and model.breaker.not_before > now:
                due.append(model.breaker.not_before)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due:
            self._timer = asyncio.get_running_loop().call_later(max(0.001, min(due) - now), self._changed)

    def _set_gauges(self) -> None:
        set_gauges(self._metrics, [model.status() for model in self._models.values()],
                   store_bytes=self._store.usage(), kv_disk_bytes=self._kv_files.held_bytes(),
                   captured_bytes=self.capture.held_bytes())

    async def _close(self, *, capturing_s: float = LAST_S) -> None:
        self._site.habits.write(time.monotonic())
        if self._timer is not None:
            self._timer.cancel()
        await self._kv_files.close()
        await self.capture.close(last_s=capturing_s)
