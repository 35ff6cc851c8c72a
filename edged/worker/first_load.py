"""At the first load of a version on a machine: how many threads are best, measured in less than a second.

Only what can be changed while the model is loaded is looked at, so nothing is loaded twice. The default stays unless
another number is faster by a margin in every turn, and nothing is kept of a moment in which others used the processors.
`edged tune` measures more, and longer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edged.engines.base import Generator, RowWork, Threads
from edged.hardware.measured import ANSWER_TOKENS, PROMPT_TOKENS
from edged.hardware.processors import lacking, shares
from edged.types import Tuning
from edged.worker.foreign import Machine

#: For decoding, and again for prompts.
BUDGET_S = 0.45
#: Of prefill: a model that is slower takes more than that for its turns, and keeps the default.
LEAST_TOKENS_PER_S = 100.0
#: A turn is one measurement of each number of threads. With three that all agree and a margin of three times the usual
#: scatter chance chooses in less than one of a thousand loads; a model whose turns take longer keeps the default.
LEAST_TURNS, MOST_TURNS = 3, 8
MARGIN = 1.15
#: Cores that others may use meanwhile, and so many that it is not even begun: that is seen in a tenth of a second, in
#: which ticks of 10 ms tell little.
QUIET_CORES, BUSY_CORES = 0.3, 0.7
BEGINNING_TOKENS, PIECE_TOKENS = 4, 16
STREAMS = 8


@dataclass(frozen=True, slots=True)
class Found:
    """threads: to compute with. tuning: to be kept; None where the machine was too busy to tell."""

    threads: Threads
    tuning: Tuning | None


def find_threads(generator: Generator, usual: Threads, counts: Sequence[int], machine: Machine) -> Found:
    """usual: that it computes with now; counts: others worth a try. The generator's rows are empty before and after.
    Raises EngineError, DeviceLost."""
    before = machine.read()
    rates = _Steps(generator)
    most = max(usual.decode, usual.batch)
    if lacking(shares(before, machine.read()), most) > BUSY_CORES:
        rates.close()
        return Found(usual, None)
    decode = _times(rates.decode, usual.decode, counts, lambda count: Threads(count, usual.batch), generator)
    batch = _times(rates.prompt, usual.batch, counts, lambda count: Threads(usual.decode, count), generator)
    rates.close()
    quiet = lacking(shares(before, machine.read()), most) <= QUIET_CORES
    best = Threads(fastest(decode, usual.decode), fastest(batch, usual.batch)) if quiet else usual
    generator.set_threads(best)
    if not quiet:
        return Found(usual, None)
    if best == usual:
        return Found(usual, Tuning(by="load", taken=time.time()))
    gain = (_typical(decode, usual.decode) + _typical(batch, usual.batch)) / (
        _typical(decode, best.decode) + _typical(batch, best.batch))
    return Found(best, Tuning(threads=best.decode, options={"batch_threads": best.batch}, by="load",
                              gain=round(gain, 3), taken=time.time()))


def fastest(times: dict[int, list[float]], usual: int) -> int:
    """times: by number of threads, one for each turn. Pure."""
    best, margin = usual, MARGIN
    for count, taken in times.items():
        ratios = [there / here for there, here in zip(times[usual], taken, strict=False)]
        if len(ratios) >= LEAST_TURNS and min(ratios) > 1 and statistics.median(ratios) >= margin:
            best, margin = count, statistics.median(ratios)
    return best


def _times(
    step: Callable[[], float], usual: int, counts: Sequence[int], threads: Callable[[int], Threads],
    generator: Generator,
) -> dict[int, list[float]]:
    times: dict[int, list[float]] = {usual: [], **{count: [] for count in counts}}
    until_s = time.monotonic() + BUDGET_S
    turn_s = 0.0
    while len(times[usual]) < MOST_TURNS and time.monotonic() + turn_s < until_s:
        began_s = time.monotonic()
        for count, taken in times.items():
            generator.set_threads(threads(count))
            taken.append(step())
        turn_s = time.monotonic() - began_s
    return times


def _typical(times: dict[int, list[float]], count: int) -> float:
    return statistics.median(times[count]) if times[count] else 0.0


class _Steps:
    """Each method takes what it measures of a request of 512 and 128 tokens, in seconds, half of its answer alone."""

    def __init__(self, generator: Generator) -> None:
        caps = generator.caps
        self._generator = generator
        self._rows = max(1, min(STREAMS, caps.rows, caps.kv_tokens // 64))
        self._tokens = [index % generator.vocab.size for index in range(min(PIECE_TOKENS, caps.context // 4))]
        for row in range(self._rows):
            generator.step([RowWork(row, self._tokens[:BEGINNING_TOKENS], 1)])

    def decode(self) -> float:
        one = self._timed([RowWork(0, self._tokens[:1], 1)])
        many = self._timed([RowWork(row, self._tokens[:1], 1) for row in range(self._rows)])
        for row in range(self._rows):
            self._generator.trim(row, BEGINNING_TOKENS)
        return ANSWER_TOKENS / 2 * (one + many / self._rows)

    def prompt(self) -> float:
        taken = self._timed([RowWork(0, self._tokens, 1)])
        self._generator.trim(0, BEGINNING_TOKENS)
        return PROMPT_TOKENS / len(self._tokens) * taken

    def close(self) -> None:
        for row in range(self._rows):
            self._generator.trim(row, 0)

    def _timed(self, work: list[RowWork]) -> float:
        began_s = time.monotonic()
        self._generator.step(work)
        return time.monotonic() - began_s
