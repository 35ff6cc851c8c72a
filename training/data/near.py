"""Prompts that say nearly the same: Jaccard similarity of their word trigrams, found exactly.

Two sets whose similarity is t at least have a token in common among their first |x| − ⌈t·|x|⌉ + 1, when all are ordered
alike, rarest first: the prefix filter of set similarity joins (Chaudhuri, Ganti, Kaushik, ICDE 2006; Bayardo, Ma,
Srikant, WWW 2007). Where the first common one stands bounds how many can follow: the positional filter (Xiao, Wang,
Lin, Yu, WWW 2008), without which prompts that share a long instruction would all be compared. An index of prefixes
misses no pair, as MinHash does, and has no seed.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from training.examples import Example, Message, identity

Shingles = frozenset[tuple[str, ...]]
_WORDS = 3


def words_of(example: Example) -> Shingles:
    """Word trigrams of what the prompt's messages say, whatever the case and the white space; of a prompt of fewer
    words, these words. Prompts with different system messages or tools have none in common: they ask for something
    else, whatever the words."""
    system = " ".join(message.content for message in example.prompt if message.role == "system")
    asked = identity((Message("system", system),), example.tools)
    words = " ".join(message.content for message in example.prompt if message.role != "system").casefold().split()
    if len(words) < _WORDS:
        return frozenset({(asked, *words)})
    return frozenset((asked, *words[index:index + _WORDS]) for index in range(len(words) - _WORDS + 1))


class Near:
    """An index of some of the given sets, which grows. Owned by one thread. It keeps 4 bytes a token of each set."""

    def __init__(self, sets: Iterable[Shingles], threshold: float) -> None:
        """sets: all that will ever be added or asked for, by index, none of them empty; read once. threshold: above 0,
        to 1."""
        self._threshold = Fraction(str(threshold))
        self._sets = _ranked([np.fromiter(map(hash, each), np.int64, len(each)) for each in sets])
        #: By token and by size of the set and how many of its tokens follow.
        self._index: dict[int, dict[tuple[int, int], list[int]]] = defaultdict(lambda: defaultdict(list))
        self._needed = cache(lambda sizes: ceil(self._threshold * sizes / (1 + self._threshold)))

    def add(self, number: int) -> None:
        """In rising order."""
        size = len(self._sets[number])
        for place, token in enumerate(self._prefix(number), 1):
            self._index[token][size, size - place].append(number)

    def like(self, number: int) -> int | None:
        """The first one added that is as similar as the threshold, or more; None where there is none."""
        mine = self._sets[number]
        candidates = [
            numbers for place, token in enumerate(self._prefix(number), 1) if token in self._index
            for (size, rest), numbers in self._index[token].items()
            if 1 + min(len(mine) - place, rest) >= self._needed(len(mine) + size)]
        before = None
        for other in heapq.merge(*candidates):
            if other != before and self._alike(mine, self._sets[other]):
                return other
            before = other
        return None

    def _alike(self, one: NDArray[np.uint32], other: NDArray[np.uint32]) -> bool:
        common = len(np.intersect1d(one, other, assume_unique=True))
        return bool(common >= self._needed(len(one) + len(other)))

    def _prefix(self, number: int) -> list[int]:
        tokens = self._sets[number]
        found: list[int] = tokens[:len(tokens) - ceil(self._threshold * len(tokens)) + 1].tolist()
        return found


def _ranked(sets: list[NDArray[np.int64]]) -> list[NDArray[np.uint32]]:
    """Each token as its rank, the rarest first, in rising order; tokens are told apart by 64 bits of hash."""
    if not sets:
        return []
    _, tokens, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    ranks = np.empty(len(counts), np.uint32)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts), dtype=np.uint32)
    return [np.sort(each) for each in np.split(ranks[tokens], np.cumsum([len(each) for each in sets])[:-1])]
