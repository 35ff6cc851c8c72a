"""The memory that all models share: carries out what the policy decides."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from edged.daemon import policy, refusals
from edged.daemon.footprint import measured_budget
from edged.daemon.model import Model
from edged.settings import Settings

log = structlog.get_logger("edged.daemon")


class Memory:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._measured_bytes = 0

    def share(self, models: Mapping[str, Model], now: float) -> set[str]:
        """models: by key. Returns those that get no new work."""
        live = [held for model in models.values() if (held := model.live()) is not None]
        budget_bytes = self._budget_bytes(loaded=bool(live))
        wants = [want for model in models.values()
                 if model.breaker.not_before <= now and (want := model.want()) is not None]
        yielding: set[str] = set()
        for decision in policy.plan(wants, live, budget_bytes):
            match decision:
                case policy.Load():
                    models[decision.key].begin_load(
                        need_bytes=decision.need_bytes, grant_bytes=decision.free_bytes, everything=decision.everything)
                case policy.Evict(key=key, victims=victims):
                    log.info("model.evicting", victims=victims, wanted=key)
                    for victim in victims:
                        models[victim].begin_stop()
                case policy.Wait(yielding=victims):
                    yielding.update(victims)
                case policy.Skip():
                    models[decision.key].wish.ended("no_room")
                case policy.Shed():
                    models[decision.key].give_up(refusals.never_fits(decision))
        live = [held for model in models.values() if (held := model.live()) is not None]
        trim = policy.trim(live, budget_bytes)
        for key in trim.victims:
            log.info("model.evicting", victims=[key], wanted=None)
            models[key].begin_stop()
        return yielding.union(trim.yielding)

    def _budget_bytes(self, *, loaded: bool) -> int:
        if self._settings.memory_bytes is not None:
            return self._settings.memory_bytes
        if not loaded or not self._measured_bytes:
            self._measured_bytes = measured_budget()
        return self._measured_bytes
