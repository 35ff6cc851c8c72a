"""Drafts by prompt lookup: what followed the last tokens when they came before, in the prompt or in the answer.

After Saxena 2023, "Prompt Lookup Decoding". An answer that quotes, edits or extracts repeats its prompt for long
stretches, and a model that repeats itself does so too. No model is asked, no text is read twice.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

#: Tokens that must be the same. One alone says too little of what follows.
SHORTEST_MATCH = 2
#: Within a long quotation the next token is nearly certain: matches are told apart up to this length.
LONGEST_MATCH = 16
#: Places that are looked at in one question, the latest first.
CANDIDATES = 32


class Match(NamedTuple):
    """start: place of the token that came next. length: how many of the last tokens are the same before it, up to
    LONGEST_MATCH."""

    start: int
    length: int


class Lookup:
    """The index of one sequence, which only grows: the latest place of each pair of tokens, and from each place the one
    before it with the same pair, as in LZ77 coders. Under a microsecond for each token, some for each question.

    tokens: the sequence's own list, which its owner appends to.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._latest: dict[int, int] = {}
        # Of place `SHORTEST_MATCH + i`; -1: none.
        self._before = array("i")

    def index(self, most: int) -> None:
        """Take in up to so many tokens more. A long prompt comes in parts, so that none of them delays a step."""
        tokens, latest, before = self._tokens, self._latest, self._before
        # What ends with the last token has no continuation yet, and would be found in place of an earlier one.
        first = SHORTEST_MATCH + len(before)
        for place in range(first, min(len(tokens), first + most)):
            pair = _pair(tokens[place - 2], tokens[place - 1])
            before.append(latest.get(pair, -1))
            latest[pair] = place

    def find(self) -> Match | None:
        """Where the last tokens came before: the longest match, of equal ones the latest, among places indexed."""
        if len(self._tokens) <= SHORTEST_MATCH:
            return None
        place = self._latest.get(_pair(self._tokens[-2], self._tokens[-1]), -1)
        best = None
        for _ in range(CANDIDATES):
            if place < 0:
                break
            length = self._same_before(place)
            if best is None or length > best.length:
                best = Match(place, length)
            if length == LONGEST_MATCH:
                break
            place = self._before[place - SHORTEST_MATCH]
        return best

    def _same_before(self, place: int) -> int:
        tokens, length = self._tokens, SHORTEST_MATCH
        while length < min(place, LONGEST_MATCH) and tokens[place - length - 1] == tokens[-length - 1]:
            length += 1
        return length

    def continuation(self, start: int, count: int) -> list[int]:
        """`count` tokens from place `start` on. Past the end of the sequence it goes on with what it has found itself:
        what repeats with a short period is proposed as far as is wanted."""
        period = len(self._tokens) - start
        found = list(self._tokens[start:start + count])
        while len(found) < count:
            found.append(found[-period])
        return found


def _pair(one: int, other: int) -> int:
    """As one number, which takes less memory than two."""
    return one << 32 | other
