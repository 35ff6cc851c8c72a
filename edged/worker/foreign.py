"""Fewer threads while other processes want the processors.

The threads of a step wait for each other after every matrix product. One that has to share its processor with a
foreign process keeps all others waiting for as long as the kernel lets that one run, which is milliseconds where a
product takes microseconds: with two threads on two processors beside one busy process llama.cpp keeps a third of its
speed, and one thread alone keeps more than half (bench/LOG.md). So as many threads are used as there are processors
that nobody else keeps busy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from edged.engines.base import Generator, Threads
from edged.hardware.processors import Reading, lacking, shares
from edged.worker.journal import journal

#: Between two looks. It looks while steps run only: what others do meanwhile is no matter.
LOOK_S = 0.3
#: After a pause of so long the next answer begins with all threads: beside a load that stays that costs LOWER_AFTER_S,
#: and to begin with too few would cost a part of the speed until RAISE_AFTER_S.
REST_S = 2.0
#: Readings further apart than that say nothing of now: a step took minutes.
STALE_S = 10.0
#: A busy process beside as many threads of ours as there are processors gets at least two thirds of one (of two), so
#: more than half of one is a process that means it; less is what clients and services of the machine take in passing.
LOWER_CORES = 0.5
#: With one thread more there may lack so much. Apart from LOWER_CORES, so that a load between the two changes nothing.
RAISE_CORES = 0.3
#: For how long it has to be so. Lowering late costs most of the speed, raising late a part of it; a compiler is many
#: processes with pauses between them.
LOWER_AFTER_S = 0.5
RAISE_AFTER_S = 1.0
#: Raised and lowered again within this time, raising takes twice as long the next time, up to MOST_PATIENCE_S.
RELAPSE_S = 5.0
MOST_PATIENCE_S = 8.0


class Allowance:
    """How many threads to use. Pure: it is told what is lacking, and for how long that was so."""

    def __init__(self, most: int) -> None:
        """most: threads on a quiet machine."""
        self.threads = self.most = most
        self._over_s = self._over = self._room_s = 0.0
        self._patience_s = RAISE_AFTER_S
        self._since_raise_s = math.inf

    def observe(self, lacking_cores: float, seconds: float) -> int:
        """lacking_cores: of `most` processors, those that others took in the last `seconds`. Returns `threads`."""
        self._since_raise_s += seconds
        given_up = self.most - self.threads
        if lacking_cores - given_up > LOWER_CORES and self.threads > 1:
            self._room_s = 0.0
            self._over_s += seconds
            self._over += lacking_cores * seconds
            if self._over_s >= LOWER_AFTER_S:
                self._lower(self._over / self._over_s)
        elif given_up and lacking_cores - (given_up - 1) <= RAISE_CORES:
            self._over_s = self._over = 0.0
            self._room_s += seconds
            if self._room_s >= self._patience_s:
                self._raise(lacking_cores)
        else:
            self._over_s = self._over = self._room_s = 0.0
        return self.threads

    def _lower(self, lacking_cores: float) -> None:
        """All at once: each thread too many costs as much as the first."""
        self.threads = max(1, min(self.threads - 1, self.most - math.floor(lacking_cores + 0.5)))
        relapsed = self._since_raise_s <= RELAPSE_S
        self._patience_s = min(2 * self._patience_s, MOST_PATIENCE_S) if relapsed else RAISE_AFTER_S
        self._over_s = self._over = 0.0

    def _raise(self, lacking_cores: float) -> None:
        self.threads = min(self.most, max(self.threads + 1, self.most - math.ceil(lacking_cores - RAISE_CORES)))
        self._room_s = self._since_raise_s = 0.0


class Machine(Protocol):
    """`edged.hardware.processors.Processors` is one."""

    def read(self) -> Reading: ...


class Foreign:
    """Looks at the machine between steps and sets the engine's threads. For engines that can change theirs while they
    serve; called from the thread that owns the engine: `look` after steps, `rest` when there are none."""

    def __init__(
        self, generator: Generator, threads: Threads, machine: Machine, *,
        beside: Callable[[Threads], None] = lambda threads: None,
    ) -> None:
        """threads: on a quiet machine. beside: told too, for what else computes in this process."""
        self._generator, self._threads, self._machine, self._beside = generator, threads, machine, beside
        self._allowance = Allowance(max(threads.decode, threads.batch))
        self._last = machine.read()
        self._resting_since_s: float | None = None

    @property
    def threads(self) -> int:
        """Of decoding, now."""
        return min(self._threads.decode, self._allowance.threads)

    def rest(self, now_s: float) -> None:
        """There is nothing to compute."""
        if self._resting_since_s is None:
            self._resting_since_s = now_s

    def look(self, now_s: float) -> None:
        """now_s: monotonic. Mostly returns at once."""
        if self._resting_since_s is not None:
            self._begin_again(now_s - self._resting_since_s)
            return
        if now_s - self._last.at_s < LOOK_S:
            return
        before, after = self._last, self._machine.read()
        self._last = after
        found = shares(before, after)
        seconds = after.at_s - before.at_s
        if not found or seconds > STALE_S:
            return
        had = self._allowance.threads
        if self._allowance.observe(lacking(found, self._allowance.most), seconds) != had:
            self._set(had, round(max(share.foreign for share in found), 2))

    def _begin_again(self, rested_s: float) -> None:
        self._resting_since_s = None
        self._last = self._machine.read()
        if rested_s >= REST_S:
            had, self._allowance = self._allowance.threads, Allowance(self._allowance.most)
            if had != self._allowance.threads:
                self._set(had, None)

    def _set(self, had: int, foreign_cores: float | None) -> None:
        threads = self._allowance.threads
        now = Threads(decode=min(self._threads.decode, threads), batch=min(self._threads.batch, threads))
        self._generator.set_threads(now)
        self._beside(now)
        journal().info("threads", threads=threads, before=had, of=self._allowance.most, foreign_cores=foreign_cores)
