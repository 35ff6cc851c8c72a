"""KV in RAM, out of the engine: snapshots of what idle rows held when their row was needed, or before.

Which one goes when room is short is decided as GreedyDual-Size-Frequency does (L. Cherkasova, "Improving WWW Proxies
Performance with Greedy-Dual-Size-Frequency Caching Policy", HPL-98-69, 1998): worth is the clock at the last use plus
uses · cost / size, the least goes, and the clock moves on to its worth, so that what is not used ages. Cost is the
tokens that would have to be computed again: not those that another snapshot or a file has too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from edged.engines.base import State
from edged.worker.prefix import Key, PrefixTree


class Held(Protocol):
    """Whoever holds KV of the first `length` of the tokens that the tree has it by. in_engine: in one of its rows."""

    in_engine: ClassVar[bool]
    length: int


@dataclass(slots=True, eq=False)
class Snapshot:
    in_engine: ClassVar[bool] = False

    state: State
    length: int
    uses: int
    used_at: float

    @property
    def size_bytes(self) -> int:
        return self.state.size_bytes


class Kept:
    """Sole owner of the snapshots, in memory and in the tree. trims: a snapshot also serves what has a part of it."""

    def __init__(self, tree: PrefixTree[Held], limit_bytes: int, *, trims: bool) -> None:
        self._tree = tree
        self._limit_bytes = limit_bytes
        self._trims = trims
        self._snapshots: dict[Snapshot, None] = {}
        self._clock = 0.0
        self.held_bytes = 0

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    def put(self, key: Key, tokens: list[int], state: State) -> bool:
        """False where it can never fit. What it makes superfluous goes, then what is worth least, maybe itself."""
        if state.size_bytes > self._limit_bytes:
            return False
        snapshot = Snapshot(state, state.tokens, 1, self._clock)
        self._tree.insert(key, tokens[:state.tokens], snapshot)
        self._snapshots[snapshot] = None
        self.held_bytes += state.size_bytes
        for other in self._tree.beginnings(snapshot):
            if isinstance(other, Snapshot) and (self._trims or other.length == snapshot.length):
                snapshot.uses = max(snapshot.uses, other.uses)
                self.drop(other)
        while self.held_bytes > self._limit_bytes:
            least = min(self._snapshots, key=self._worth)
            self._clock = self._worth(least)
            self.drop(least)
        return True

    def use(self, snapshot: Snapshot) -> None:
        snapshot.uses += 1
        snapshot.used_at = self._clock

    def drop(self, snapshot: Snapshot) -> None:
        """It may be gone already."""
        if snapshot not in self._snapshots:
            return
        self._tree.remove(snapshot)
        del self._snapshots[snapshot]
        self.held_bytes -= snapshot.state.size_bytes

    def clear(self) -> None:
        for snapshot in list(self._snapshots):
            self.drop(snapshot)

    def _worth(self, snapshot: Snapshot) -> float:
        cost = snapshot.length - saved_elsewhere(self._tree, snapshot, trims=self._trims)
        return snapshot.used_at + snapshot.uses * cost / max(snapshot.state.size_bytes, 1)


def saved_elsewhere(tree: PrefixTree[Held], holder: Held, *, trims: bool) -> int:
    """Tokens of the longest beginning that is safe outside of rows, the holder itself aside."""
    for length, holders in tree.coverage(holder):
        if any(other is not holder and not other.in_engine and (trims or other.length == length) for other in holders):
            return length
    return 0

