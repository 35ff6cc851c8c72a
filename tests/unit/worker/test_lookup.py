"""Prompt lookup against a search that reads everything each time."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.lookup import CANDIDATES, LONGEST_MATCH, SHORTEST_MATCH, Lookup, Match

pytestmark = pytest.mark.unit

#: Few different ones, so that grams repeat.
texts = st.lists(st.integers(0, 3), max_size=60)


def same_before(tokens: list[int], place: int) -> int:
    pairs = zip(reversed(tokens[:place]), reversed(tokens), strict=False)
    return min(len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))), LONGEST_MATCH)


def naive(tokens: list[int]) -> Match | None:
    every = [Match(place, same_before(tokens, place)) for place in range(len(tokens) - 1, 1, -1)]
    found = [match for match in every if match.length >= SHORTEST_MATCH][:CANDIDATES]
    return max(found, key=lambda match: (match.length, match.start), default=None)


@given(texts, st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=12))
def test_it_finds_the_longest_match_and_of_equal_ones_the_latest_however_the_text_grew(
    prompt: list[int], growth: list[list[int]]
) -> None:
    tokens = list(prompt)
    lookup = Lookup(tokens)
    for more in growth:
        tokens += more
        lookup.index(len(tokens))
        assert lookup.find() == naive(tokens)


@given(texts, st.integers(1, 7))
def test_taken_in_by_parts_it_comes_to_the_same(tokens: list[int], part: int) -> None:
    lookup = Lookup(tokens)
    for _ in range(len(tokens)):
        lookup.index(part)
    assert lookup.find() == naive(tokens)


@given(texts, st.integers(1, 7), st.integers(0, 8))
def test_what_is_not_indexed_yet_is_not_found_and_what_is_found_is_there(
    tokens: list[int], part: int, parts: int
) -> None:
    lookup = Lookup(tokens)
    for _ in range(parts):
        lookup.index(part)
    match = lookup.find()
    if match is not None:
        assert match.start < len(tokens)
        assert tokens[match.start - match.length:match.start] == tokens[-match.length:]


def test_the_continuation_is_what_followed() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 1, 2, 3])
    lookup.index(100)
    match = lookup.find()
    assert match == Match(3, 3)
    assert lookup.continuation(match.start, 3) == [4, 5, 6]


def test_what_repeats_with_a_short_period_is_continued_for_as_long_as_is_wanted() -> None:
    lookup = Lookup([9, 5, 6, 7, 5, 6, 7, 5, 6])
    lookup.index(100)
    match = lookup.find()
    assert match is not None
    assert lookup.continuation(match.start, 8) == [7, 5, 6, 7, 5, 6, 7, 5]
