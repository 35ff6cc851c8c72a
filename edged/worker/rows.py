"""The rows of the engine: which are free, busy or idle, what tokens their KV holds, and which prefix can be reused.

An idle row keeps the KV of a finished sequence for the next one with the same beginning. When its row or its room is
needed, the longest unused first, its KV goes to memory (`kept`), or did so already in an idle moment, and comes back
from there, or from a file, where that is sooner than computing it. One tree knows who holds what (`prefix`). Sole owner
of the engine's rows: nothing else trims or forks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

from edged.engines.base import Capabilities, EngineError, State
from edged.worker.found import MIN_PREFIX_TOKENS, Found, Row, find
from edged.worker.kept import Held, Kept, Snapshot, saved_elsewhere
from edged.worker.kv_disk import KvDisk
from edged.worker.prefix import Key, PrefixTree, Shared, forgotten, is_forgotten
from edged.worker.prefix_files import OnDisk, PrefixFiles
from edged.worker.worth import Source, Worth

#: What is waited for, or checkpointed, must spare at least so many tokens of computing.
MIN_GAIN_TOKENS = 32
#: With no empty row, an idle one is cut to what is wanted of it rather than forked, if no more than this is lost, or
#: this part of what is wanted: mostly the end of an answer whose text became other tokens in the next prompt.
MOST_CUT_TOKENS = 32
MOST_CUT_SHARE = 8


class RowStore(Protocol):
    """The part of `Generator` that moves KV."""

    caps: Capabilities

    def trim(self, row: int, keep: int) -> int: ...
    def fork(self, src: int, dst: int, keep: int) -> int: ...
    def stash(self, row: int) -> State: ...
    def unstash(self, row: int, state: State) -> int: ...


class Placed(NamedTuple):
    """length: of KV that the row already has, and where that was before."""

    row: int
    length: int
    source: Literal["rows", Source] = "rows"


class Rows:
    def __init__(self, store: RowStore, *, ram_bytes: int = 0, disk: KvDisk | None = None, worth: Worth | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        """ram_bytes: of KV that is kept out of the engine, at most. worth: by default bringing back always pays."""
        self._store = store
        self._trims = store.caps.trims
        self._tree: PrefixTree[Held] = PrefixTree()
        self._kept = Kept(self._tree, ram_bytes if store.caps.moves_kv else 0, trims=self._trims)
        self._files = PrefixFiles(self._tree, disk if store.caps.moves_kv else None, trims=self._trims)
        self._worth = worth or Worth(lambda: 0.0)
        self._clock = clock
        self._rows = [Row(number) for number in range(store.caps.rows)]
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

    @property
    def ram_bytes(self) -> int:
        """KV of idle prefixes held out of the engine."""
        return self._kept.held_bytes

    @property
    def disk_bytes(self) -> int:
        """Files of KV of this model."""
        return self._files.held_bytes

    @property
    def failed_writes(self) -> int:
        """Files of KV that the disk refused."""
        return self._files.failed_writes

    @property
    def purged(self) -> bool:
        """Somebody purged the files: all is to be forgotten."""
        return self._files.purged

    def take(self, tokens: list[int], *, reuse: bool, adapter: str | None = None, scope: str = "",
             uses: int = 0) -> Placed | None:
        """A row for this sequence, or None when all are busy. uses: requests that begin with these tokens by it.

        At least one token is left to compute, for its logits. The same tokens have other KV under another adapter, and
        of another scope none.
        """
        key = scope, adapter
        found = self._find(key, tokens) if reuse else Found()
        # What is brought, or could not be, may have cost the row that was found.
        placed = self._bring(found) or self._share(self._find(key, tokens) if found.outside else found, key)
        return placed and self._occupy(placed, tokens, key, uses=uses)

    def reusable(self, tokens: list[int], *, adapter: str | None, scope: str) -> tuple[int, list[tuple[int, int]]]:
        """(tokens that `take` would not leave to compute, [(busy row, tokens that it will have of these once they are
        computed)], the most first)."""
        found = self._find((scope, adapter), tokens)
        have = next((usable for usable, holder in found.outside if self._pays(found, usable, holder)), 0)
        return max(have, found.in_row), found.coming

    def known(self, tokens: list[int], *, adapter: str | None, scope: str) -> int:
        """The longest beginning that anything has in common with them, whether its KV can be used or not."""
        return self._find((scope, adapter), tokens).known

    def grow(self, row: int, count: int) -> None:
        """The engine appended `count` tokens to a busy row."""
        self._rows[row].length += count

    def shrink(self, row: int, length: int) -> int:
        """A busy row forgets what lies behind `length`. Returns the length that it really has then."""
        if length < self._rows[row].length:
            self._rows[row].length = self._store.trim(row, length)
        return self._rows[row].length

    def release(self, row: int) -> None:
        """The sequence has ended; its KV stays until the room is needed."""
        owner = self._rows[row]
        if is_forgotten(owner.key[0]):
            self.discard(row)
            return
        idle = Row(row, owner.tokens[: owner.length], owner.length, owner.key, used_at=self._next_use())
        self._replace(owner, idle)

    def discard(self, row: int) -> None:
        """The row's KV is void or not wanted. After a failed step the engine may hold more of it than we know."""
        self._store.trim(row, 0)
        self._replace(self._rows[row], Row(row))

    def stash(self, row: int) -> State | None:
        """Empties the row. None where the engine cannot save its KV, or there is none."""
        state = self._read(row)
        self.discard(row)
        return state

    def unstash(self, tokens: list[int], state: State, *, adapter: str | None = None,
                scope: str = "") -> Placed | None:
        """Like `take`, with the sequence's own KV, for which idle rows make room."""
        row = self._vacate(sparing=None)
        if row is None:
            return None
        self._make_room(state.tokens)
        return self._occupy(Placed(row, self._store.unstash(row, state)), tokens, (scope, adapter))

    def checkpoint(self, row: int) -> None:
        """What a busy row has now is kept, beside it: for engines whose KV does not go back, at a place that others may
        begin with."""
        owner = self._rows[row]
        if is_forgotten(owner.key[0]):
            return
        if self._kept.limit_bytes and owner.length and (state := self._read(row)) is not None:
            self._kept.put(owner.key, owner.tokens, state)

    def tend(self) -> bool:
        """One thing that is better done now, while nothing is to be computed. False when there is none."""
        self._files.look()
        for row in sorted(self._rows, key=lambda row: row.used_at):
            if not row.busy and row.length and self._save(row):
                return True
        for shared in self._files.wanted(self._store.caps.state_bytes_per_token):
            if (state := self._copy(shared)) is not None:
                self._files.offer(shared, state)
                return True
        return False

    def drop_every_idle(self) -> None:
        """What idle rows hold, and what was kept of such, is not wanted any more, or not trusted."""
        for row in self._rows:
            if not row.busy and row.length:
                self.discard(row.number)
        self._kept.clear()
        self._files.clear()

    def forget(self) -> None:
        """What is kept goes now, files apart, which somebody else removes; what runs when it ends."""
        self.drop_every_idle()
        self._files.forget()
        for row in self._rows:
            if row.busy:
                scope, adapter = row.key
                self._replace(row, replace(row, key=(forgotten(scope), adapter)))

    def drop_idle(self) -> bool:
        """Empty the idle row that was used least recently. False when there is none."""
        idle = [row for row in self._rows if not row.busy and row.length]
        if not idle:
            return False
        oldest = min(idle, key=lambda row: row.used_at)
        self._save(oldest)
        self.discard(oldest.number)
        return True

    def _find(self, key: Key, tokens: list[int]) -> Found:
        return find(self._tree, key, tokens, self._store.caps)

    def _share(self, found: Found, key: Key) -> Placed | None:
        """An empty row, or the best row's own KV: taken over, forked, or cut. What is the operator's stays so."""
        source, common = found.row, found.in_row
        if source is None:
            return None if (target := self._vacate(sparing=None)) is None else Placed(target, 0)
        if not source.busy:
            if common == source.length and source.key == key:
                return Placed(source.number, common)
            if not self._store.caps.moves_kv:
                return Placed(source.number, self._store.trim(source.number, common))
            lost = source.length - common if source.key == key else source.length
            if self._empty(source) is None and lost <= min(MOST_CUT_TOKENS, common // MOST_CUT_SHARE):
                return Placed(source.number, self._store.trim(source.number, common))
        if (target := self._vacate(sparing=source)) is not None:
            source.used_at = self._next_use()
            return Placed(target, self._store.fork(source.number, target, common))
        if source.busy:
            return None
        self._save(source)
        return Placed(source.number, self._store.trim(source.number, common))

    def _bring(self, found: Found) -> Placed | None:
        """The most of what is out of the engine that beats what rows have, into an empty row."""
        for usable, holder in found.outside:
            if usable - found.in_row < MIN_PREFIX_TOKENS:
                return None
            if self.busy_tokens + holder.length > self._store.caps.kv_tokens:
                continue
            if not self._pays(found, usable, holder):
                self._worth.declined(_source(holder))
                continue
            if isinstance(holder, Snapshot):
                self._kept.use(holder)
            if (row := self._vacate(sparing=None)) is None:
                return None
            self._make_room(holder.length)
            if self._load(row, holder):
                return Placed(row, self._store.trim(row, usable), _source(holder))
        return None

    def _load(self, row: int, holder: Snapshot | OnDisk) -> bool:
        """Into an empty row. False where it is of no use any more: it is forgotten then."""
        began_s = self._clock()
        state = holder.state if isinstance(holder, Snapshot) else self._files.fetch(holder)
        if state is None:
            return False
        if self._store.unstash(row, state) == holder.length:
            self._worth.moved(_source(holder), holder.size_bytes, self._clock() - began_s)
            return True
        self._store.trim(row, 0)
        if isinstance(holder, Snapshot):
            self._kept.drop(holder)
        else:
            self._files.drop(holder)
        return False

    def _pays(self, found: Found, usable: int, holder: Snapshot | OnDisk) -> bool:
        gain = usable - found.in_row
        return gain >= MIN_PREFIX_TOKENS and self._worth.pays(_source(holder), holder.size_bytes, gain)

    def _copy(self, shared: Shared[Held]) -> State | None:
        """KV of just these tokens. None where nobody in memory has it, or all rows are busy. It takes a row to cut in:
        an empty one, else the idle one that was used least recently, which goes to RAM."""
        length = len(shared.tokens)
        holders = [holder for holder in shared.holders if holder.length >= length and not isinstance(holder, OnDisk)]
        for holder in holders:
            if holder.length == length and isinstance(holder, Snapshot):
                return holder.state
            if holder.length == length and isinstance(holder, Row):
                return self._read(holder.number)
        if not self._trims or not holders:
            return None
        first = holders[0]
        row = self._vacate(sparing=first if isinstance(first, Row) else None)
        if row is None:
            return None
        room = self._store.caps.kv_tokens - self.used_tokens
        for holder in holders:
            if isinstance(holder, Row) and length <= room:
                self._store.fork(holder.number, row, length)
            elif isinstance(holder, Snapshot) and holder.length <= room:
                self._store.unstash(row, holder.state)
            else:
                continue
            try:
                return self._store.stash(row) if self._store.trim(row, length) == length else None
            except EngineError:
                return None
            finally:
                self._store.trim(row, 0)
        return None

    def _save(self, row: Row) -> bool:
        """Keep an idle row's KV out of the engine too, if enough of it is nowhere else."""
        if row.saved or not self._kept.limit_bytes:
            return False
        row.saved = True
        gain = row.length - saved_elsewhere(self._tree, row, trims=self._trims)
        size_bytes = row.length * self._store.caps.state_bytes_per_token
        if gain < MIN_PREFIX_TOKENS or not self._worth.pays("ram", size_bytes, gain):
            return False
        state = self._read(row.number)
        return state is not None and self._kept.put(row.key, row.tokens, state)

    def _read(self, row: int) -> State | None:
        try:
            return self._store.stash(row) if self._rows[row].length else None
        except EngineError:
            return None

    def _make_room(self, tokens: int) -> None:
        while self.used_tokens + tokens > self._store.caps.kv_tokens and self.drop_idle():
            pass

    def _occupy(self, placed: Placed, tokens: list[int], key: Key, *, uses: int = 0) -> Placed:
        row = Row(placed.row, tokens, placed.length, key, busy=True, used_at=self._next_use())
        self._replace(self._rows[placed.row], row, uses=uses)
        return placed

    def _replace(self, old: Row, new: Row, *, uses: int = 0) -> None:
        """In this order, since the tree forgets what nobody holds."""
        self._rows[new.number] = new
        if new.busy or new.length:
            self._tree.insert(new.key, new.tokens, new, uses=uses)
        if old in self._tree:
            self._tree.remove(old)

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses

    def _empty(self, sparing: Row | None) -> int | None:
        return next((row.number for row in self._rows if not row.busy and not row.length and row is not sparing), None)

    def _vacate(self, sparing: Row | None) -> int | None:
        """An empty row; the least recently used idle one is emptied for it."""
        if (number := self._empty(sparing)) is not None:
            return number
        idle = [row for row in self._rows if not row.busy and row is not sparing]
        if not idle:
            return None
        row = min(idle, key=lambda row: row.used_at)
        self._save(row)
        self.discard(row.number)
        return row.number


def _source(holder: Snapshot | OnDisk) -> Source:
    return "ram" if isinstance(holder, Snapshot) else "disk"
