"""How much of the processors this process has, and how much others take: counters of the kernel, read twice.

A machine is one limit: the processors that this process may run on. Each cgroup with a quota is another, in which only
its own processes count. `/proc/stat` counts in ticks of 10 ms, so a third of a second tells a core to about 3 %.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from edged.hardware.cgroups import cgroups, quota_cores, used_s
from edged.hardware.sysfs import text

#: Columns of /proc/stat in which a processor does something for somebody: user, nice, system, irq, softirq, and steal,
#: which another guest of the same host took. Time of guests is in user already.
_BUSY = (1, 2, 3, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Limit:
    """cores: that all under it can use together. used_s: CPU seconds that they used so far."""

    cores: float
    used_s: float


@dataclass(frozen=True, slots=True)
class Reading:
    """at_s: monotonic. own_s: CPU seconds of this process, and of its daemon, so far. limits: the machine first."""

    at_s: float
    own_s: float
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """Between two readings. cores: that can be used under one limit; foreign: of these, used by others."""

    cores: float
    foreign: float


def shares(before: Reading, after: Reading) -> list[Share]:
    """One for each limit; none where limits changed or no time has passed."""
    seconds = after.at_s - before.at_s
    if seconds <= 0 or [one.cores for one in before.limits] != [one.cores for one in after.limits]:
        return []
    own_s = after.own_s - before.own_s
    return [Share(now.cores, max(0.0, (now.used_s - then.used_s - own_s) / seconds))
            for then, now in zip(before.limits, after.limits, strict=True)]


def lacking(found: Collection[Share], threads: int) -> float:
    """Of the processors that `threads` threads would use, those that others take: with more processors than threads
    there is room for others, and nothing is lacking."""
    return max((max(0.0, share.foreign - max(0.0, share.cores - threads)) for share in found), default=0.0)


class Processors:
    """daemon: process id of the one that this process works for, which counts as this process: what it does, it does
    for the same requests. root: where /proc and /sys are; tests give the files of other machines."""

    def __init__(self, *, daemon: int | None = None, root: Path = Path("/")) -> None:
        self._root = root
        self._daemon = _process(daemon)
        self._groups = [group for group in cgroups(root, "cpu") if quota_cores(group) is not None]

    def read(self) -> Reading:
        """Takes some ten microseconds for each processor."""
        groups = [Limit(cores, used) for group in self._groups
                  if (cores := quota_cores(group)) is not None and (used := used_s(group)) is not None]
        return Reading(time.monotonic(), time.process_time() + self._of_daemon_s(), (self._machine(), *groups))

    def _machine(self) -> Limit:
        lines = [line.split() for line in text(self._root / "proc/stat").splitlines() if line.startswith("cpu")]
        mine = _allowed() if self._root == Path("/") else None
        processors = [fields for fields in lines if fields[0] != "cpu" and (
            mine is None or int(fields[0].removeprefix("cpu")) in mine)]
        if not processors:
            told = psutil.cpu_times()
            return Limit(psutil.cpu_count() or 1, told.user + told.system + getattr(told, "nice", 0.0))
        ticks = sum(int(fields[column]) for fields in processors for column in _BUSY if column < len(fields))
        return Limit(len(processors), ticks / os.sysconf("SC_CLK_TCK"))

    def _of_daemon_s(self) -> float:
        if self._daemon is None:
            return 0.0
        try:
            told = self._daemon.cpu_times()
        except psutil.Error:
            return 0.0
        return float(told.user + told.system)


def _allowed() -> Collection[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _process(number: int | None) -> psutil.Process | None:
    try:
        return None if number is None else psutil.Process(number)
    except psutil.Error:
        return None
