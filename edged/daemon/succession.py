"""Which version answers to a model's plain name in this daemon, and how another one comes after it.

The store's pointer says which one is meant. Where the pointer moves while the old version is loaded, the old one goes
on answering until the new one is ready; where the daemon is asked to change it, the new one has to be ready before the
pointer moves. What waits for the old version without having named it goes over in the same moment; what the old one
has at work, it ends. One event loop owns this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from edged.daemon.model import Model
from edged.errors import Conflict
from edged.store.entries import Manifest

log = structlog.get_logger("edged.daemon")


class Succession:
    def __init__(self, model: Callable[[Manifest], Model], changed: Callable[[], None]) -> None:
        """changed: is told that something may be decided anew."""
        self._model, self._changed = model, changed
        self._answering: dict[str, Model] = {}
        #: By name, the version that is to come as soon as it is ready.
        self._coming: dict[str, Model] = {}
        #: Names whose version is being changed on demand: their pointers are not looked at meanwhile.
        self._changing: set[str] = set()

    def answering(self, active: Manifest) -> Model:
        """active: as the store's pointer says now."""
        name = active.name
        if name in self._changing:
            return self._answering[name]
        new = self._model(active)
        old = self._answering.setdefault(name, new)
        if old is new:
            self._coming.pop(name, None)
        elif self._coming.get(name) is not new:
            self._coming[name] = new
            if old.ready:
                log.info("model.succeeding", model=old.key, by=new.key)
                new.preload()
        self._advance(name)
        return self._answering[name]

    def take_over(self, old: Model, new: Model) -> None:
        """What waits for the old version and named none is answered by the new one. What the old one has, ends there;
        then it goes."""
        for generation in old.requests.release():
            generation.move_to(new)
            new.requests.add(generation)
        old.stay.retired = True
        self._changed()

    def answers(self, model: Model) -> bool:
        """To its plain name, which somebody has said since the daemon started."""
        return self._answering.get(model.manifest.name) is model

    def settle(self) -> None:
        """Whose time has come. To be called before ready models take their work."""
        for name in list(self._coming):
            self._advance(name)

    async def change(self, active: Manifest, new: Model, move_pointer: Callable[[], Awaitable[object]]) -> None:
        """Load the new version, let it answer, then move the pointer. The old one goes on where anything fails. Raises
        what a load or `move_pointer` raises; Conflict while another change of the name is under way."""
        name = active.name
        if name in self._changing:
            raise Conflict(f"{name} is being changed to another version already; see `edged ps`, then try again")
        old = self.answering(active)
        self._changing.add(name)
        try:
            if old is not new:
                self._coming[name] = new
            await new.reach_ready(keep_alive_s=None, pin=None)
            self._put(name, new)
            await move_pointer()
        except BaseException:
            self._put(name, old)
            raise
        finally:
            self._changing.discard(name)

    def _advance(self, name: str) -> None:
        old, new = self._answering[name], self._coming.get(name)
        if new is not None and (new.ready or not (old.ready or name in self._changing)):
            self._put(name, new)

    def _put(self, name: str, new: Model) -> None:
        self._coming.pop(name, None)
        old = self._answering[name]
        if old is not new:
            self._answering[name] = new
            self.take_over(old, new)
            new.stay.succeed(old.stay)
            new.keep_loaded()
            log.info("model.succeeded", model=old.key, by=new.key)
