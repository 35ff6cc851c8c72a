"""The rows of the engine: which are free, busy or idle, what tokens their KV holds, and which prefix can be reused.

An idle row keeps the KV of a finished sequence for the next one with the same beginning; it is dropped, the longest
unused first, as soon as its row or its room is needed. Sole owner of the engine's rows: nothing else trims or forks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from edged.engines.base import Capabilities, EngineError, State

#: A shorter common beginning is not worth a fork.
MIN_PREFIX_TOKENS = 8


class RowStore(Protocol):
    """The part of `Generator` that moves KV."""

    caps: Capabilities

    def trim(self, row: int, keep: int) -> int: ...
    def fork(self, src: int, dst: int, keep: int) -> int: ...
    def stash(self, row: int) -> State: ...
    def unstash(self, row: int, state: State) -> int: ...


@dataclass(slots=True)
class _Row:
    """tokens[:length] has KV, all of it computed with `adapter`. A busy row's list is the sequence's own, which
    grows."""

    tokens: list[int] = field(default_factory=list)
    length: int = 0
    adapter: str | None = None
    busy: bool = False
    used_at: int = 0


class Rows:
    def __init__(self, store: RowStore) -> None:
        self._store = store
        self._rows = [_Row() for _ in range(store.caps.rows)]
        self._uses = 0

    @property
    def used_tokens(self) -> int:
        """KV held, idle rows included. Forks that share cells count twice: the engine may hold more than this says."""
        return sum(row.length for row in self._rows)

    @property
    def busy_tokens(self) -> int:
        return sum(row.length for row in self._rows if row.busy)

    @property
    def busy(self) -> int:
        return sum(row.busy for row in self._rows)

    def take(self, tokens: list[int], *, reuse: bool, adapter: str | None = None) -> tuple[int, int] | None:
        """A row for this sequence: (row, length of KV it already has), or None when all are busy.

        At least one token is left to compute, for its logits. The same tokens have other KV under another adapter.
        """
        source, common = self._longest_prefix(tokens, adapter) if reuse else (None, 0)
        if source is None:
            return None if (target := self._vacate(sparing=None)) is None else self._occupy(target, tokens, 0, adapter)
        owner = self._rows[source]
        if not owner.busy and common == owner.length:
            return self._occupy(source, tokens, common, adapter)
        if (target := self._vacate(sparing=source)) is not None:
            owner.used_at = self._next_use()
            return self._occupy(target, tokens, self._store.fork(source, target, common), adapter)
        if owner.busy:
            return None
        return self._occupy(source, tokens, self._store.trim(source, common), adapter)

    def grow(self, row: int, count: int) -> None:
        """The engine appended `count` tokens to a busy row."""
        self._rows[row].length += count

    def release(self, row: int) -> None:
        """The sequence has ended; its KV stays until the room is needed."""
        owner = self._rows[row]
        owner.busy = False
        owner.used_at = self._next_use()
        owner.tokens = owner.tokens[: owner.length]

    def discard(self, row: int) -> None:
        """The row's KV is void or not wanted. After a failed step the engine may hold more of it than we know."""
        self._store.trim(row, 0)
        self._rows[row] = _Row()

    def stash(self, row: int) -> State | None:
        """Empties the row. None where the engine cannot save its KV, or there is none."""
        try:
            state = self._store.stash(row) if self._rows[row].length else None
        except EngineError:
            state = None
        self.discard(row)
        return state

    def unstash(self, tokens: list[int], state: State, *, adapter: str | None = None) -> tuple[int, int] | None:
        """Like `take`, with the sequence's own KV, for which idle rows make room."""
        row = self._vacate(sparing=None)
        if row is None:
            return None
        while self.used_tokens + state.tokens > self._store.caps.kv_tokens and self.drop_idle():
            pass
        return self._occupy(row, tokens, self._store.unstash(row, state), adapter)

    def drop_every_idle(self) -> None:
        """What idle rows hold is not trusted any more."""
        while self.drop_idle():
            pass

    def drop_idle(self) -> bool:
        """Forget the idle row that was used least recently. False when there is none."""
        idle = [number for number, row in enumerate(self._rows) if not row.busy and row.length]
        if not idle:
            return False
        self.discard(min(idle, key=lambda number: self._rows[number].used_at))
        return True

    def _occupy(self, number: int, tokens: list[int], length: int, adapter: str | None) -> tuple[int, int]:
        self._rows[number] = _Row(tokens, length, adapter, busy=True, used_at=self._next_use())
        return number, length

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses

    def _vacate(self, sparing: int | None) -> int | None:
        """An empty row; the least recently used idle one is emptied for it."""
        free = [number for number, row in enumerate(self._rows) if not row.busy and number != sparing]
        if not free:
            return None
        number = min(free, key=lambda number: (self._rows[number].length > 0, self._rows[number].used_at))
        if self._rows[number].length:
            self.discard(number)
        return number

    def _longest_prefix(self, tokens: list[int], adapter: str | None) -> tuple[int | None, int]:
        """Of equal ones the row that can be taken over without a fork, then an idle one."""
        best: tuple[int, bool, bool] = (MIN_PREFIX_TOKENS, False, False)
        source = None
        for number, row in enumerate(self._rows):
            if row.length < best[0] or row.adapter != adapter:
                continue
            common = common_prefix(row.tokens, tokens, min(row.length, len(tokens) - 1))
            found = (common, not row.busy and common == row.length, not row.busy)
            if found > best or (found == best and source is None):
                source, best = number, found
        return source, best[0] if source is not None else 0


def common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """Length of the common beginning, at most `limit`; list slices compare in C, so bisect on them."""
    if left[:limit] == right[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
