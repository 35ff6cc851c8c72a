"""Which prefixes have a file, as the tree knows them, and which deserve one: what several requests began with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from edged.engines.base import State
from edged.worker.kept import Held
from edged.worker.kv_disk import DiskPrefix, KvDisk
from edged.worker.prefix import OPERATOR_SCOPE, PrefixTree, Shared

#: A shorter beginning is computed as soon as it is read.
MIN_FILE_TOKENS = 32
#: Requests that must have begun with it. Flash wears, and most prompts come once.
MIN_USES = 2
#: A history grows with each turn, and each turn's prompt is used by the next: where a file has this part of it, it gets
#: a file of its own only once so many requests had it.
ENOUGH_SHARE = 2 / 3
MANY_USES = 4
#: That are remembered.
MOST_REFUSED = 1000


@dataclass(slots=True, eq=False)
class OnDisk:
    in_engine: ClassVar[bool] = False

    prefix: DiskPrefix
    length: int
    size_bytes: int


class PrefixFiles:
    """Sole owner of the files' places in the tree. trims: a file also serves what begins with a part of it."""

    def __init__(self, tree: PrefixTree[Held], disk: KvDisk | None, *, trims: bool) -> None:
        self._tree = tree
        self._disk = disk
        self._trims = trims
        self._files: dict[OnDisk, None] = {}
        #: Beginnings that the disk did not want, by key and hash of tokens, and how many requests had had them then.
        self._refused: dict[tuple[object, int], int] = {}
        if disk is not None:
            self._insert(disk.known())

    @property
    def held_bytes(self) -> int:
        """Of this model's files."""
        return self._disk.held_bytes if self._disk is not None else 0

    @property
    def failed_writes(self) -> int:
        return self._disk.failed_writes if self._disk is not None else 0

    @property
    def purged(self) -> bool:
        """All KV of before is to be dropped, and then `forget` to be called."""
        return self._disk is not None and self._disk.purged

    def forget(self) -> None:
        self.clear()
        if self._disk is not None:
            self._disk.forget()

    def clear(self) -> None:
        """None of them is used any more; new ones may come."""
        self._refused.clear()
        for file in list(self._files):
            self.drop(file)

    def look(self) -> None:
        """What has been written since is known from now on."""
        if self._disk is not None:
            self._insert(self._disk.written())

    def fetch(self, file: OnDisk) -> State | None:
        """Blocks for the disk. None where it is gone, expired or damaged: it is forgotten then."""
        assert self._disk is not None
        state = self._disk.fetch(file.prefix)
        if state is None:
            self.drop(file)
        return state

    def drop(self, file: OnDisk) -> None:
        """It is of no use."""
        del self._files[file]
        self._tree.remove(file)

    def wanted(self, bytes_per_token: int) -> Iterator[Shared[Held]]:
        """Beginnings that should get a file. The tree must not change in between."""
        if self._disk is None:
            return
        for shared in self._tree.shared(MIN_USES, MIN_FILE_TOKENS):
            scope, adapter = shared.key
            mark = shared.key, hash(tuple(shared.tokens))
            if self._on_disk(shared) or self._refused.get(mark) == shared.uses:
                continue
            if self._disk.wants(scope, adapter, shared.tokens, len(shared.tokens) * bytes_per_token):
                yield shared
            else:
                if len(self._refused) >= MOST_REFUSED:
                    self._refused.clear()
                self._refused[mark] = shared.uses

    def offer(self, shared: Shared[Held], state: State) -> None:
        """To be written in the background."""
        assert self._disk is not None
        scope, adapter = shared.key
        self._disk.offer(scope, adapter, shared.tokens, state)

    def _on_disk(self, shared: Shared[Held]) -> bool:
        length = len(shared.tokens)
        keys = dict.fromkeys((shared.key, (OPERATOR_SCOPE, shared.key[1])))
        beginnings = (
            match.common for key in keys for match in self._tree.matches(key, shared.tokens) for holder in match.holders
            if isinstance(holder, OnDisk) and (self._trims or holder.length == match.common))
        have = max(beginnings, default=0)
        return have == length or (shared.uses < MANY_USES and have >= ENOUGH_SHARE * length)

    def _insert(self, prefixes: list[DiskPrefix]) -> None:
        for prefix in prefixes:
            file = OnDisk(prefix, len(prefix.tokens), prefix.found.header.payload_bytes)
            self._files[file] = None
            self._tree.insert((prefix.scope, prefix.adapter), prefix.tokens, file)
