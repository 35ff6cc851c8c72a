"""Whether drafts pay, by what whole ticks really gave: tokens a second with them and without, by how many rows
answered, as the harmonic mean of all rows (`acceptance.fair_rate`).

What a draft is worth is told beforehand from acceptance and the cost of steps (`acceptance`). That knows nothing of
what else a tick with drafts takes: rows that have to change places in the engine, a batch that is cut in two because
its rows differ in length. With one row these are nothing; with eight they were a fifth of the rate (bench/LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edged.worker.acceptance import fair_rate

#: Ticks with drafts after which they are judged.
JUDGED_TICKS = 8
#: Ticks without any, where they did not pay: at first, and at most, doubling from one time to the next.
FIRST_PAUSE_TICKS, LONGEST_PAUSE_TICKS = 64, 2048
#: Of a moving average, the part of what was that stays with each tick.
_KEPT = 0.97


@dataclass(slots=True)
class _Rate:
    tokens: float = 0.0
    seconds: float = 0.0
    ticks: int = 0

    def observe(self, tokens: Sequence[int], seconds: float) -> None:
        self.tokens = _KEPT * self.tokens + fair_rate(tokens, 1.0)
        self.seconds = _KEPT * self.seconds + seconds
        self.ticks += 1

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Rows:
    plain: _Rate = field(default_factory=_Rate)
    drafted: _Rate = field(default_factory=_Rate)
    pause_ticks: int = FIRST_PAUSE_TICKS
    left_ticks: int = 0


class Payoff:
    """Pure. Says yes until ticks have shown otherwise."""

    def __init__(self) -> None:
        self._by_rows: dict[int, _Rows] = {}

    def pays(self, rows: int) -> bool:
        """rows: that answer in the next tick."""
        return rows not in self._by_rows or not self._by_rows[rows].left_ticks

    def observe(self, tokens: Sequence[int], seconds: float, *, drafted: bool) -> None:
        """A tick in which nothing but answers was computed gave each of them so many tokens."""
        found = self._by_rows.setdefault(len(tokens), _Rows())
        (found.drafted if drafted else found.plain).observe(tokens, seconds)
        if not drafted:
            found.left_ticks = max(0, found.left_ticks - 1)
        elif found.drafted.ticks >= JUDGED_TICKS and found.plain.ticks:
            if found.drafted.tokens_per_s > found.plain.tokens_per_s:
                found.pause_ticks = FIRST_PAUSE_TICKS
            else:
                found.left_ticks = found.pause_ticks
                found.pause_ticks = min(2 * found.pause_ticks, LONGEST_PAUSE_TICKS)
                found.drafted = _Rate()

    def renew(self) -> None:
        """Another text begins. Alone it is judged by itself; among others it is one of many."""
        if (alone := self._by_rows.get(1)) is not None:
            alone.left_ticks, alone.pause_ticks, alone.drafted = 0, FIRST_PAUSE_TICKS, _Rate()
