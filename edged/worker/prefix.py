"""Which tokens KV is known for, and who holds it: a radix tree over token ids, one for each key.

A key is (cache scope, adapter): what one scope has is neither served nor shown to another, and the same tokens have
other KV under another adapter. Holders are anything that can be compared by identity: rows, snapshots, files. The tree
knows no KV and no lengths of it; a running row stands in it by its whole prompt, before that is computed.

A node stands for the beginning that ends with its edge. Every holder ends at a node, and every node but the roots is
held: what nobody holds is forgotten, and what it was used.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar

#: Whose the prompts are that the operator had warmed: no client's. Prompts of every scope may begin with them.
OPERATOR_SCOPE = ":operator"
_FORGOTTEN = ":forgotten "

Holder = TypeVar("Holder")
#: (cache scope, adapter)
Key = tuple[str, str | None]


@dataclass(slots=True, eq=False)
class _Node(Generic[Holder]):
    """edge: tokens between the parent's end and this one's. holders: whose tokens begin with all of it; ends: those of
    them that have no more. uses: as insertions said, as long as somebody held it. A node with one child that ends
    nobody stays only while it was used more often than the child."""

    edge: list[int]
    parent: _Node[Holder] | None
    depth: int
    children: dict[int, _Node[Holder]] = field(default_factory=dict)
    holders: set[Holder] = field(default_factory=set)
    ends: set[Holder] = field(default_factory=set)
    uses: int = 0


@dataclass(frozen=True, slots=True)
class Match(Generic[Holder]):
    """All `holders` have the first `common` tokens of what was looked up. Not to be kept over a change of the tree."""

    common: int
    holders: Set[Holder]


@dataclass(frozen=True, slots=True)
class Shared(Generic[Holder]):
    """A beginning that `uses` requests had, and who holds it."""

    key: Key
    tokens: list[int]
    uses: int
    holders: Set[Holder]


class PrefixTree(Generic[Holder]):
    def __init__(self) -> None:
        self._roots: dict[Key, _Node[Holder]] = {}
        self._ends: dict[Holder, tuple[Key, _Node[Holder]]] = {}

    def __contains__(self, holder: Holder) -> bool:
        return holder in self._ends

    def insert(self, key: Key, tokens: list[int], holder: Holder, *, uses: int = 0) -> None:
        """uses: requests that begin with them, and so with each beginning of them. The holder must not be in the tree,
        and the tokens not be empty."""
        node = self._roots.setdefault(key, _Node([], None, 0))
        while True:
            node.holders.add(holder)
            node.uses += uses
            if node.depth == len(tokens):
                break
            child = node.children.get(tokens[node.depth])
            if child is None:
                child = _Node(tokens[node.depth:], node, len(tokens))
                node.children[tokens[node.depth]] = child
            else:
                same = _common(child, tokens)
                if same < len(child.edge):
                    child = _split(child, same)
            node = child
        node.ends.add(holder)
        self._ends[holder] = key, node

    def remove(self, holder: Holder) -> None:
        key, node = self._ends.pop(holder)
        node.ends.remove(holder)
        lowest: _Node[Holder] | None = None
        above: _Node[Holder] | None = node
        while above is not None:
            above.holders.remove(holder)
            if above.holders:
                lowest = lowest or above
            elif above.parent is not None:
                del above.parent.children[above.edge[0]]
            else:
                del self._roots[key]
            above = above.parent
        if lowest is not None:
            _join(lowest)

    def matches(self, key: Key, tokens: list[int]) -> list[Match[Holder]]:
        """Who holds beginnings of these tokens: the longest first, each with more holders than the one before it."""
        found: list[Match[Holder]] = []
        node = self._roots.get(key)
        while node is not None and node.depth < len(tokens):
            child = node.children.get(tokens[node.depth])
            if child is None:
                break
            same = _common(child, tokens)
            found.append(Match(node.depth + same, child.holders))
            node = child if same == len(child.edge) else None
        found.reverse()
        return found

    def coverage(self, holder: Holder) -> Iterator[tuple[int, Set[Holder]]]:
        """(length, who has these tokens beside the holder) of its beginnings that end with a node, the longest, all of
        its tokens, first."""
        node: _Node[Holder] | None = self._ends[holder][1]
        while node is not None and node.parent is not None:
            yield node.depth, node.holders
            node = node.parent

    def beginnings(self, holder: Holder) -> list[Holder]:
        """Others whose tokens are a beginning of the holder's, or all of them."""
        found: list[Holder] = []
        node: _Node[Holder] | None = self._ends[holder][1]
        while node is not None:
            found += (other for other in node.ends if other is not holder)
            node = node.parent
        return found

    def tokens(self, holder: Holder) -> list[int]:
        return _tokens(self._ends[holder][1])

    def key(self, holder: Holder) -> Key:
        return self._ends[holder][0]

    def uses(self, key: Key, tokens: list[int]) -> int:
        """Of exactly these tokens, which may end within an edge; 0 where nobody holds them."""
        node = self._roots.get(key)
        while node is not None and node.depth < len(tokens):
            child = node.children.get(tokens[node.depth])
            if child is None or _common(child, tokens) < min(child.depth, len(tokens)) - node.depth:
                return 0
            node = child
        return 0 if node is None else node.uses

    def shared(self, least_uses: int, least_tokens: int) -> Iterator[Shared[Holder]]:
        """The longest beginnings that so many requests had. The tree must not change in between."""
        for key, root in self._roots.items():
            nodes = [root]
            while nodes:
                node = nodes.pop()
                further = [child for child in node.children.values() if child.uses >= least_uses]
                nodes += further
                if not further and node.depth >= least_tokens and node.uses >= least_uses:
                    yield Shared(key, _tokens(node), node.uses, node.holders)


def forgotten(scope: str) -> str:
    """Of what ran in this scope when all was to be forgotten: its own choices may still share it, nobody else."""
    return scope if is_forgotten(scope) else _FORGOTTEN + scope


def is_forgotten(scope: str) -> bool:
    return scope.startswith(_FORGOTTEN)


def _common(child: _Node[Holder], tokens: list[int]) -> int:
    """How much of the child's edge the tokens go along."""
    begin = child.depth - len(child.edge)
    end = min(child.depth, len(tokens))
    return common_prefix(child.edge, tokens[begin:end], end - begin)


def _split(child: _Node[Holder], same: int) -> _Node[Holder]:
    """A node within the child's edge, which all its holders pass."""
    parent = child.parent
    assert parent is not None
    upper = _Node(child.edge[:same], parent, parent.depth + same, {child.edge[same]: child}, set(child.holders),
                  uses=child.uses)
    parent.children[upper.edge[0]] = upper
    child.edge = child.edge[same:]
    child.parent = upper
    return upper


def _join(node: _Node[Holder]) -> None:
    """Take the node out if it tells nothing that its only child does not."""
    if node.parent is None or node.ends or len(node.children) != 1:
        return
    [child] = node.children.values()
    if child.uses == node.uses:
        child.edge = node.edge + child.edge
        child.parent = node.parent
        node.parent.children[node.edge[0]] = child


def _tokens(node: _Node[Holder]) -> list[int]:
    edges = []
    above: _Node[Holder] | None = node
    while above is not None:
        edges.append(above.edge)
        above = above.parent
    return [token for edge in reversed(edges) for token in edge]


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
