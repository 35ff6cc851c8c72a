"""What else the machine is doing, and what a server's processes cost it. Reads /proc through psutil."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

MIB = 2**20


@dataclass(frozen=True)
class CpuUse:
    """Over one stretch of time: cores kept busy by a server's processes, by this process, and by anybody else
    (stolen time of a virtual machine counts as somebody else's)."""

    server_cores: float
    client_cores: float
    foreign_cores: float


class CpuClock:
    """Started at its creation; `read` says who used the cores since then.

    `trees` are root processes; their children are found anew at each reading. A child that ended in between takes its
    share out of the count, so nothing may be started or stopped while the clock runs.
    """

    def __init__(self, server: psutil.Process | None, others: list[psutil.Process]) -> None:
        self._server, self._others = server, others
        self._began = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        own = time.process_time()
        server = tree_cpu_s(self._server) if self._server else 0.0
        ours = own + server + sum(tree_cpu_s(other) for other in self._others)
        return time.perf_counter(), server, own, machine_cpu_s() - ours

    def read(self) -> CpuUse:
        wall, server, client, foreign = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return CpuUse(server / wall, client / wall, max(0.0, foreign / wall))


def machine_cpu_s() -> float:
    times = psutil.cpu_times()
    # guest time is contained in user time already
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_cpu_s(root: psutil.Process) -> float:
    total = 0.0
    for process in tree(root):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@dataclass(frozen=True)
class Memory:
    """Of all processes of a server. rss counts a page that two of them share twice, pss once."""

    rss_bytes: int
    pss_bytes: int


def tree_memory(root: psutil.Process) -> Memory:
    rss = pss = 0
    for process in tree(root):
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        rss += info.rss
        pss += info.pss
    return Memory(rss, pss)


def busiest(seconds: float = 1.0, least_cores: float = 0.05) -> list[tuple[float, str]]:
    """Other processes that use at least `least_cores`, busiest first: (cores, name)."""
    seen = [process for process in psutil.process_iter(["name"]) if process.pid != os.getpid()]
    for process in seen:
        _percent(process)
    time.sleep(seconds)
    used = [(_percent(process) / 100, process.info["name"]) for process in seen]
    return sorted((pair for pair in used if pair[0] >= least_cores), reverse=True)


def _percent(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent())
    except psutil.NoSuchProcess:
        return 0.0


def describe() -> dict[str, str]:
    """The machine, without its name or address."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith(("model name", "Model"))), "unknown"
    )
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo() if line.startswith(("flags", "Features"))), [])
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm", "sve") if flag in flags]
    return {
        "cpu": f"{model}, {psutil.cpu_count()} cores, {' '.join(known)}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
    }


def _cpuinfo() -> list[str]:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return file.read().splitlines()
