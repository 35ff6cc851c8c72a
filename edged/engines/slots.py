"""Rows that must be neighbours in the engine's memory to share a run: which slot each row is in, and what to swap.

Pure bookkeeping; the engine moves the KV. Used where one tensor holds all rows and a run sees a slice of it.
"""

from __future__ import annotations

from collections.abc import Iterable


class Slots:
    def __init__(self, count: int) -> None:
        self._slot_of = list(range(count))
        self._row_in = list(range(count))

    def __getitem__(self, row: int) -> int:
        return self._slot_of[row]

    def row_in(self, slot: int) -> int:
        return self._row_in[slot]

    def gather(self, rows: Iterable[int]) -> list[tuple[int, int]]:
        """Swaps of two slots, in order, after which these rows are neighbours; the mapping is changed already.

        The neighbourhood is the one that most of them are in, so that a row that leaves or joins costs one swap."""
        slots = sorted(self._slot_of[row] for row in rows)
        if slots[-1] - slots[0] == len(slots) - 1:
            return []
        first = max(range(len(self._row_in) - len(slots) + 1),
                    key=lambda low: (sum(low <= slot < low + len(slots) for slot in slots), -low))
        window = range(first, first + len(slots))
        free = [slot for slot in window if slot not in slots]
        swaps = list(zip((slot for slot in slots if slot not in window), free, strict=True))
        for one, other in swaps:
            self._swap(one, other)
        return swaps

    def _swap(self, one: int, other: int) -> None:
        self._row_in[one], self._row_in[other] = self._row_in[other], self._row_in[one]
        for slot in (one, other):
            self._slot_of[self._row_in[slot]] = slot
