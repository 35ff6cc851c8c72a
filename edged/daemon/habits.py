"""How often each model is used, and so how soon it may be used again: what memory is given by when it is short.

A habit is a count of uses of which each fades by half in HALF_LIFE_S (an exponentially decayed rate, as caches keep
it). Uses that come closer than SAME_USE_S weigh as little as the time between them, so that a burst of requests is
not taken for a habit. What has been idle for long is expected no sooner than after half of that again, whatever it did
before.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

import msgspec
import structlog

from edged.store.damaged import DAMAGED

#: Long enough that a night does not make a model forgotten that was used all day.
HALF_LIFE_S = 12 * 3600.0
SAME_USE_S = 600.0
#: The file is written at the end of the daemon, and no more often than this before.
WRITE_EVERY_S = 1800.0
#: A habit that has faded to less is forgotten.
LEAST_WEIGHT = 0.01

_TIME_CONSTANT_S = HALF_LIFE_S / math.log(2)

log = structlog.get_logger("edged.daemon")


class Habit(msgspec.Struct, frozen=True):
    """weight: of all uses, faded to the last of them. used_s: when that was, on the clock of the process."""

    weight: float
    used_s: float


def use(habit: Habit | None, now_s: float) -> Habit:
    """One more use."""
    if habit is None:
        return Habit(1.0, now_s)
    since_s = max(0.0, now_s - habit.used_s)
    return Habit(_faded(habit, now_s) + min(1.0, since_s / SAME_USE_S), now_s)


def rate(habit: Habit | None, now_s: float) -> float:
    """Uses a second to be expected now; 0 of what was never used."""
    if habit is None:
        return 0.0
    idle_s = max(now_s - habit.used_s, 1.0)
    return min(_faded(habit, now_s) / _TIME_CONSTANT_S, 2 / idle_s)


def _faded(habit: Habit, now_s: float) -> float:
    return habit.weight * math.exp(-max(0.0, now_s - habit.used_s) / _TIME_CONSTANT_S)


class _File(msgspec.Struct):
    """written: seconds since 1970, the only clock that two processes share. Of each model by name its weight and how
    long ago its last use was then, in seconds."""

    written: float
    models: dict[str, tuple[float, float]]


class Habits:
    """Of all models, by name, over restarts of the daemon: one small file, written seldom, for the sake of flash.
    Losing it costs worse guesses, so a home that cannot be written is no error."""

    def __init__(self, file: Path, now_s: float) -> None:
        """now_s: monotonic, as of all calls."""
        self._file = file
        self._habits: dict[str, Habit] = {}
        self._written_s = now_s
        with contextlib.suppress(OSError, *DAMAGED):
            kept = msgspec.json.decode(file.read_bytes(), type=_File)
            # A clock that was set back, or far ahead, says nothing of how long it was off.
            away_s = min(max(0.0, time.time() - kept.written), 2 * HALF_LIFE_S)
            self._habits = {name: Habit(weight, now_s - away_s - ago_s)
                            for name, (weight, ago_s) in kept.models.items()}

    def used(self, name: str, now_s: float) -> None:
        self._habits[name] = use(self._habits.get(name), now_s)
        if now_s - self._written_s >= WRITE_EVERY_S:
            self.write(now_s)

    def rate(self, name: str, now_s: float) -> float:
        return rate(self._habits.get(name), now_s)

    def write(self, now_s: float) -> None:
        self._written_s = now_s
        kept = {name: (habit.weight, now_s - habit.used_s) for name, habit in self._habits.items()
                if _faded(habit, now_s) >= LEAST_WEIGHT}
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            new.write_bytes(msgspec.json.encode(_File(time.time(), kept)))
            new.replace(self._file)
        except OSError as error:
            log.info("habits.not_kept", reason=error.strerror)
            with contextlib.suppress(OSError):
                new.unlink()
