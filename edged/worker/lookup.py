"""Drafts by prompt lookup: what followed the last tokens when they came before, in the prompt or in the answer.

After Saxena 2023, "Prompt Lookup Decoding". An answer that quotes, edits or extracts repeats its prompt for long
stretches, and a model that repeats itself does so too. No model is asked, no text is read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Grams that are looked for, the longest first. One token alone says too little of what follows.
LONGEST_GRAM = 4
SHORTEST_GRAM = 2
#: Within a long quotation the next token is nearly certain: matches are told apart up to this length.
LONGEST_MATCH = 16


class Match(NamedTuple):
    """start: place of the token that came next. length: how many of the last tokens are the same before it, up to
    LONGEST_MATCH."""

    start: int
    length: int


class Lookup:
    """The index of one sequence, which only grows: under a microsecond for each token, and as much for each question.

    tokens: the sequence's own list, which its owner appends to.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        # By length: place after the latest gram that is like it.
        self._places: dict[int, dict[tuple[int, ...], int]] = {
            length: {} for length in range(SHORTEST_GRAM, LONGEST_GRAM + 1)}
        self._indexed = SHORTEST_GRAM

    def index(self, most: int) -> None:
        """Take in up to so many tokens more. A long prompt comes in parts, so that none of them delays a step."""
        tokens = self._tokens
        # What ends with the last token has no continuation yet, and would be found in place of an earlier one.
        end = min(len(tokens), self._indexed + most)
        for length, places in self._places.items():
            for place in range(max(self._indexed, length), end):
                places[tuple(tokens[place - length:place])] = place
        self._indexed = max(self._indexed, end)

    def find(self) -> Match | None:
        """Where the last tokens came before: of the longest gram that did, the latest place that is indexed."""
        for length in range(min(LONGEST_GRAM, len(self._tokens) - 1), SHORTEST_GRAM - 1, -1):
            place = self._places[length].get(tuple(self._tokens[-length:]))
            if place is not None:
                return Match(place, self._same_before(place, length))
        return None

    def _same_before(self, place: int, length: int) -> int:
        tokens = self._tokens
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
