"""What of a prompt has KV already, or will have soon, and who holds it: read from the tree, and nothing is done."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import ClassVar

from edged.engines.base import Capabilities
from edged.worker.kept import Held, Snapshot
from edged.worker.prefix import OPERATOR_SCOPE, Key, PrefixTree
from edged.worker.prefix_files import OnDisk

#: A shorter common beginning, or less more of it, is not worth a move of KV.
MIN_PREFIX_TOKENS = 8


@dataclass(slots=True, eq=False)
class Row:
    """tokens[:length] has KV, all of it of `key`. A busy row's list is the sequence's own, which grows; the tree has it
    as it was when the row was taken. saved: nothing more is to be done to keep it."""

    in_engine: ClassVar[bool] = True

    number: int
    tokens: list[int] = field(default_factory=list)
    length: int = 0
    key: Key = ("", None)
    busy: bool = False
    used_at: int = 0
    saved: bool = False


@dataclass(slots=True)
class Found:
    """in_row: usable tokens of `row`, the best. outside: who has some out of the engine, the most first, of equal
    ones those in memory. coming: running rows that will have more once they have computed it, and how much, the most
    first. known: the longest beginning that anybody has or will have."""

    row: Row | None = None
    in_row: int = 0
    outside: list[tuple[int, Snapshot | OnDisk]] = field(default_factory=list)
    coming: list[tuple[int, int]] = field(default_factory=list)
    known: int = 0


def find(tree: PrefixTree[Held], key: Key, tokens: list[int], caps: Capabilities) -> Found:
    """Of all tokens but the last, which is computed in any case, for its logits. Of equal rows the one that can be
    taken over without a fork, then an idle one."""
    found = Found()
    best = (MIN_PREFIX_TOKENS, False, False, -caps.rows)
    seen: AbstractSet[Held] = frozenset()
    beginning, operators = tokens[:-1], (OPERATOR_SCOPE, key[1])
    matches = tree.matches(key, beginning)
    if key != operators:
        matches += tree.matches(operators, beginning)
    for match in matches:
        found.known = max(found.known, match.common)
        for holder in match.holders - seen:
            if caps.trims:
                usable = min(holder.length, match.common)
            else:
                usable = holder.length if holder.length <= match.common else 0
            if isinstance(holder, (Snapshot, OnDisk)):
                found.outside.append((usable, holder))
            elif isinstance(holder, Row) and (caps.moves_kv or not holder.busy):
                if holder.busy and holder.length < match.common:
                    found.coming.append((holder.number, match.common))
                this = (usable, not holder.busy and usable == holder.length, not holder.busy, -holder.number)
                if this > best:
                    found.row, found.in_row, best = holder, usable, this
        seen = match.holders
    found.outside.sort(key=lambda one: (-one[0], isinstance(one[1], OnDisk), one[1].length))
    found.coming.sort(key=lambda one: (-one[1], one[0]))
    return found
