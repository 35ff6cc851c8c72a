"""The measuring itself: every workload on every side, turn about, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import uvloop

from bench import machine
from bench.client import BenchError, Burst, burst
from bench.compare import check_lengths, figure
from bench.servers import Launch, Running
from bench.workloads import COLD, WARM_UP, Workload, body

#: A waiting server that uses more of a core than this is stopped while others are measured.
IDLE_CORES = 0.02
#: A sample during which others used more than this is flagged.
FOREIGN_CORES = 0.1

T = TypeVar("T")
Say = Callable[[str], None]
Ask = Callable[[Running, Workload, int], Burst]


def ask(running: Running, workload: Workload, first: int) -> Burst:
    """Prompts number `first` and following, one for each stream, all at once."""
    bodies = [body(workload, first + stream, running.model) for stream in range(workload.streams)]
    return uvloop.run(burst(running.url, workload.endpoint, bodies))


@dataclass(frozen=True)
class Sample:
    """One figure of one side in one round. cpu: None where it is no matter of time."""

    metric: str
    side: str
    round: int
    value: float
    cpu: machine.CpuUse | None = None

    @property
    def disturbed(self) -> bool:
        return self.cpu is not None and self.cpu.foreign_cores > FOREIGN_CORES


@dataclass
class Side:
    """One contender. `running` is the server while it is up; only `up` and `down` change it."""

    name: str
    launch: Launch
    ask: Ask = ask
    running: Running | None = None
    facts: dict[str, str] = field(default_factory=dict)

    def up(self) -> Running:
        """The server, started and warmed up if it was not."""
        if self.running is None:
            self.running = self.launch()
            warm = self.ask(self.running, WARM_UP, -WARM_UP.streams)
            self.facts |= self.running.facts | attested(warm)
        return self.running

    def down(self) -> None:
        if self.running is not None:
            self.running.stop()
            self.running = None


def attested(warm: Burst) -> dict[str, str]:
    """What the answer itself says of who gave it."""
    answer = warm.answers[0]
    said = {name: value for name, value in answer.headers.items() if name in ("edged-engine", "edged-device")}
    return said | ({"system_fingerprint": answer.fingerprint} if answer.fingerprint else {})


@dataclass
class Bench:
    """Sides in order; the first is the subject. Collects samples and complaints."""

    sides: Sequence[Side]
    workloads: Sequence[Workload]
    say: Say
    samples: list[Sample] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def run(self, rounds: int) -> None:
        """Interleaved: each workload on each side before the next one; the side that begins changes every round."""
        try:
            spinning = self._spinning()
            number = 0
            for turn in range(rounds):
                order = rotated(self.sides, turn)
                for workload in self.workloads:
                    for side in order:
                        self._measure(side, workload, number, turn)
                        if workload is self.workloads[-1]:
                            self._memory(side, turn)
                        if spinning:
                            side.down()
                    number += workload.requests
        finally:
            for side in self.sides:
                side.down()

    def _spinning(self) -> bool:
        """Starts every side and looks whether one of them uses the machine while nobody asks anything."""
        for side in self.sides:
            side.up()
        time.sleep(1)
        clocks = [(side, machine.CpuClock(side.up().process, [])) for side in self.sides]
        time.sleep(2)
        busy = [(side, cores) for side, clock in clocks if (cores := clock.read().server_cores) > IDLE_CORES]
        for side, cores in busy:
            self._complain(f"{side.name} uses {cores:.2f} cores while idle: sides are stopped when not measured")
        if busy:
            for side in self.sides:
                side.down()
        return bool(busy)

    def _measure(self, side: Side, workload: Workload, number: int, turn: int) -> None:
        running = side.up()
        others = [other.running.process for other in self.sides if other.running and other.running.process]
        clock = machine.CpuClock(running.process, [process for process in others if process != running.process])
        bursts = [side.ask(running, workload, number + repeat * workload.streams) for repeat in range(workload.repeats)]
        cpu = clock.read()
        for one in bursts:
            for complaint in check_lengths(workload, one):
                self._complain(f"{side.name}: {complaint}")
        self._keep(Sample(workload.name, side.name, turn, figure(workload, bursts), cpu))

    def _memory(self, side: Side, turn: int) -> None:
        process = side.up().process
        if process is not None:
            self._keep(Sample("memory", side.name, turn, machine.tree_memory(process).pss_bytes / machine.MIB))

    def starts(self, count: int, bare: Launch | None, empty: Launch | None) -> None:
        """Start-up, from nothing to the first answer for each side, and of the daemon alone against the bare server.

        Fresh processes over a warm disk cache: the first start of each is not counted.
        """
        for turn in range(-1, count):
            for side in rotated(self.sides, turn % len(self.sides)):
                self._cold(side, turn)
            if bare and empty:
                pair = [("bare Litestar", bare), (self.sides[0].name, empty)]
                for name, launch in pair if turn % 2 else reversed(pair):
                    self._empty(name, launch, turn)

    def _cold(self, side: Side, turn: int) -> None:
        began = time.perf_counter()
        running = side.launch()
        try:
            side.ask(running, COLD, -100 - turn)
            took = time.perf_counter() - began
        finally:
            running.stop()
        if turn >= 0:
            self._keep(Sample("cold", side.name, turn, took))

    def _empty(self, name: str, launch: Launch, turn: int) -> None:
        began = time.perf_counter()
        running = launch()
        took = time.perf_counter() - began
        try:
            time.sleep(0.5)
            if running.process is None:
                raise BenchError(f"{name}: its process cannot be seen")
            resident = machine.tree_memory(running.process).rss_bytes / machine.MIB
        finally:
            running.stop()
        if turn >= 0:
            self._keep(Sample("idle-ready", name, turn, took))
            self._keep(Sample("idle-memory", name, turn, resident))

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        cpu = sample.cpu
        share = (
            f"  server {cpu.server_cores:.2f}, client {cpu.client_cores:.3f}, others {cpu.foreign_cores:.2f} cores"
            if cpu else ""
        )
        self.say(f"round {sample.round + 1}  {sample.metric:<12} {sample.side:<22} {sample.value:9.2f}{share}")

    def _complain(self, complaint: str) -> None:
        if complaint not in self.complaints:
            self.complaints.append(complaint)
            self.say(f"note: {complaint}")


def rotated(sides: Sequence[T], turn: int) -> list[T]:
    start = turn % len(sides)
    return [*sides[start:], *sides[:start]]
