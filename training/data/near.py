"""Prompts that say nearly the same: Jaccard similarity of their word trigrams, found exactly.

Two sets whose similarity is t at least have a token in common among their first |x| − ⌈t·|x|⌉ + 1, when all are ordered
alike, rarest first: the prefix filter of set similarity joins (Chaudhuri, Ganti, Kaushik, ICDE 2006; Bayardo, Ma,
Srikant, WWW 2007). An index of those prefixes misses no pair, as MinHash does, and has no seed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

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


def similarity(one: Shingles, other: Shingles) -> Fraction:
    """|one ∩ other| / |one ∪ other|."""
    common = len(one & other)
    return Fraction(common, len(one) + len(other) - common)


class Near:
    """An index of some of the given sets, which grows. Owned by one thread."""

    def __init__(self, sets: Sequence[Shingles], threshold: float) -> None:
        """sets: all that will ever be added or asked for, by index, none of them empty. threshold: above 0, to 1."""
        self._sets = sets
        self._threshold = Fraction(str(threshold))
        counts = Counter(token for each in sets for token in each)
        rarest_first = sorted(counts, key=lambda token: (counts[token], token))
        self._rank = {token: rank for rank, token in enumerate(rarest_first)}
        self._index: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def add(self, number: int) -> None:
        for token in self._prefix(number):
            self._index[token].append(number)

    def like(self, number: int) -> int | None:
        """The first one added that is as similar as the threshold, or more; None where there is none."""
        mine = self._sets[number]
        candidates = sorted({other for token in self._prefix(number) for other in self._index.get(token, ())})
        return next((other for other in candidates if similarity(mine, self._sets[other]) >= self._threshold), None)

    def _prefix(self, number: int) -> list[tuple[str, ...]]:
        tokens = sorted(self._sets[number], key=self._rank.__getitem__)
        return tokens[:len(tokens) - ceil(self._threshold * len(tokens)) + 1]
