"""Which model answers: the owner of all models' state and of the memory they share.

One run of `_settle` looks at every model, asks the policy, and acts. It runs after every change, in the event loop,
without an await: what it reads is true while it acts. Callers never read a state to decide on a mutation; they ask to
reach a state (`generate`, `load`, `unload`) and wait.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import structlog

from edged.daemon import policy
from edged.daemon.breaker import Breaker
from edged.daemon.footprint import Footprints, measured_budget
from edged.daemon.generation import Generation
from edged.daemon.metrics import Metrics
from edged.daemon.model import Model
from edged.daemon.names import resolve
from edged.daemon.process import COMMAND
from edged.daemon.site import Site
from edged.daemon.status import ModelState, ModelStatus, Served
from edged.daemon.suspects import Suspects
from edged.errors import CorruptFile, InsufficientMemory, ModelNotFound, ShuttingDown
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile
from edged.store.entries import Manifest
from edged.types import GenerateRequest

__all__ = ["Generation", "ModelState", "ModelStatus", "Router", "Served"]

FOOTPRINTS_FILE = "footprints.json"
SHUTTING_DOWN_RETRY_S = 5.0

log = structlog.get_logger("edged.daemon")


class Router:
    def __init__(self, settings: Settings, store: Store, catalog: CatalogFile, metrics: Metrics, *,
                 worker_command: Sequence[str] = COMMAND, breaker: Callable[[], Breaker] = Breaker) -> None:
        self._store, self._catalog, self._metrics = store, catalog, metrics
        self._settings = settings
        self._site = Site(
            settings=settings, store=store, catalog=catalog, metrics=metrics,
            footprints=Footprints(store.home / FOOTPRINTS_FILE), suspects=Suspects(),
            tickets=itertools.count(1), changed=self._changed, breaker=breaker, worker_command=worker_command,
        )
        self._models: dict[str, Model] = {}
        self._measured_bytes = 0
        self._started = False
        self._draining = False
        self._settling: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        metrics.on_render(self._set_gauges)

    @property
    def ready(self) -> bool:
        """It can answer, or load what answers."""
        return self._started and not self._draining

    async def start(self) -> None:
        """Pinned models load in the background."""
        self._started = True
        self._load_pinned()
        self._changed()

    async def drain(self, grace_s: float) -> None:
        """New requests get ShuttingDown, as do those that no worker has yet; the others may end within grace_s."""
        self._draining = True
        self._changed()
        try:
            await asyncio.wait_for(self._quiet.wait(), grace_s)
        except TimeoutError:
            log.warning("drain.deadline", running=sum(len(model.requests) for model in self._models.values()))
        await asyncio.gather(*(model.stop(_shutting_down()) for model in self._models.values()))
        self._close()

    async def kill(self) -> None:
        """No grace: every request ends now with ShuttingDown."""
        self._draining = True
        for model in self._models.values():
            model.refuse_waiting(_shutting_down())
        await asyncio.gather(*(model.stop(_shutting_down(), at_once=True) for model in self._models.values()))
        self._close()

    def models(self) -> list[ModelStatus]:
        """Every installed model, then every alias of one (name: the alias; alias_of: what it stands for). A version
        that is loaded though another is active is told too."""
        found: list[ModelStatus] = []
        for name in self._store.names():
            try:
                found.append(self._model(self._store.manifest(name)).status())
            except (ModelNotFound, CorruptFile) as error:
                log.warning("model.unreadable", model=name, error=error.message)
        told = {f"{status.name}@{status.version}" for status in found}
        found += [model.status() for key, model in self._models.items()
                  if key not in told and model.state is not ModelState.ABSENT]
        for alias in sorted(self._catalog.current.aliases):
            try:
                found.append(self.status(alias))
            except (ModelNotFound, CorruptFile):
                continue
        return found

    def status(self, model: str) -> ModelStatus:
        resolved = resolve(model, self._store, self._catalog)
        served = self._model(resolved.manifest)
        return served.status(alias_of=resolved.alias_of, name=model if resolved.alias_of else None)

    async def generate(self, model: str, request: GenerateRequest) -> Generation:
        """Loads the model if needed, which may take minutes. Cancel the call to take the request back.

        Raises ModelNotFound, CorruptFile, QueueFull, InsufficientMemory, LoadFailed, ModelUnavailable, ShuttingDown,
        SuspectRequest, WorkerDied.
        """
        self._refuse_draining()
        served = self._model(resolve(model, self._store, self._catalog).manifest)
        return await served.generate(request)

    async def load(self, model: str, *, keep_alive_s: float | None = None, pin: bool | None = None) -> ModelStatus:
        """Reach READY; starts a model again whose breaker is open. keep_alive_s and pin hold until the daemon's end."""
        self._refuse_draining()
        served = self._model(resolve(model, self._store, self._catalog).manifest)
        await served.reach_ready(keep_alive_s=keep_alive_s, pin=pin)
        return self.status(model)

    async def unload(self, model: str, *, force: bool = False) -> ModelStatus:
        """Reach ABSENT, after the requests it has unless force; takes its pin away. A later request loads it again."""
        served = self._model(resolve(model, self._store, self._catalog).manifest)
        await served.reach_absent(force=force)
        return self.status(model)

    async def reload(self) -> list[str]:
        """Read the catalog again. Returns what changed: entries apply at a model's next load, pins and aliases now.
        Raises ConfigError and keeps the old catalog."""
        changed = self._catalog.reload()
        self._load_pinned()
        self._changed()
        log.info("catalog.reloaded", changed=changed)
        return changed

    def activated(self, manifest: Manifest) -> None:
        """A version became its name's active one (by a pull, a roll-back): the pin goes over to it."""
        for model in self._models.values():
            if model.manifest.name == manifest.name and model.manifest.version != manifest.version:
                model.unpin()
        self._model(manifest).repin()
        self._changed()

    def _refuse_draining(self) -> None:
        if self._draining:
            raise _shutting_down()

    def _model(self, manifest: Manifest) -> Model:
        key = f"{manifest.name}@{manifest.version}"
        if (model := self._models.get(key)) is None:
            model = self._models[key] = Model(manifest, self._site)
        return model

    def _load_pinned(self) -> None:
        for entry in self._catalog.current.models.values():
            if entry.pin:
                try:
                    self._model(self._store.manifest(entry.name)).keep_loaded()
                except (ModelNotFound, CorruptFile) as error:
                    log.warning("pin.failed", model=entry.name, error=error.message)

    def _changed(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = None
        now = time.monotonic()
        models = list(self._models.values())
        for model in models:
            model.leave_if_done()
        if self._draining:
            for model in models:
                if model.state is not ModelState.READY:
                    model.refuse_waiting(_shutting_down())
            yielding: set[str] = set()
        else:
            yielding = self._share_memory(models, now)
        for model in models:
            if model.state is ModelState.READY and model.key not in yielding:
                model.take_work()
        self._expire(models, now)
        if self._draining and not any(model.requests for model in models):
            self._quiet.set()

    def _share_memory(self, models: list[Model], now: float) -> set[str]:
        """Carry out the policy's decisions. Returns the models that get no new work."""
        live = [held for model in models if (held := model.live()) is not None]
        budget_bytes = self._budget_bytes(loaded=bool(live))
        wants = [want for model in models
                 if model.breaker.not_before <= now and (want := model.want()) is not None]
        yielding: set[str] = set()
        for decision in policy.plan(wants, live, budget_bytes):
            match decision:
                case policy.Load():
                    self._models[decision.key].begin_load(
                        need_bytes=decision.need_bytes, grant_bytes=decision.free_bytes, everything=decision.everything)
                case policy.Evict(key=key, victims=victims):
                    log.info("model.evicting", victims=victims, wanted=key)
                    for victim in victims:
                        self._models[victim].begin_stop()
                case policy.Wait(yielding=victims):
                    yielding.update(victims)
                case policy.Shed():
                    self._models[decision.key].refuse_waiting(_never_fits(decision))
        for key in policy.trim((held for model in models if (held := model.live()) is not None), budget_bytes):
            log.info("model.evicting", victims=[key], wanted=None)
            self._models[key].begin_stop()
        return yielding

    def _budget_bytes(self, *, loaded: bool) -> int:
        if self._settings.memory_bytes is not None:
            return self._settings.memory_bytes
        if not loaded or not self._measured_bytes:
            self._measured_bytes = measured_budget()
        return self._measured_bytes

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
        metrics = self._metrics
        metrics.store_bytes.set(self._store.usage())
        for gauge in (metrics.model_info, metrics.requests_running, metrics.requests_waiting,
                      metrics.worker_resident_bytes, metrics.kv_cache_usage):
            gauge.clear()
        for model in self._models.values():
            status = model.status()
            # Two versions of one name may be loaded at once: the sums are the name's.
            metrics.requests_running.labels(status.name).inc(status.running)
            metrics.requests_waiting.labels(status.name).inc(status.waiting)
            metrics.worker_resident_bytes.labels(status.name).inc(status.resident_bytes)
            if status.device is not None:
                metrics.kv_cache_usage.labels(status.name).set(
                    status.kv_used_tokens / status.kv_tokens if status.kv_tokens else 0)
                metrics.model_info.labels(
                    status.name, status.version, status.engine, status.device, status.precision).set(1)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; send the request again in a moment",
                        retry_after_s=SHUTTING_DOWN_RETRY_S)


def _never_fits(shed: policy.Shed) -> InsufficientMemory:
    name = shed.key.partition("@")[0]
    return InsufficientMemory(
        f"{name} needs about {shed.need_bytes >> 20} MiB of memory and {shed.free_bytes >> 20} MiB can be had beside "
        "what is pinned; take a smaller variant or context, unpin a model, or raise memory_bytes"
    )
