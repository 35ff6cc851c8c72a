from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.windows import CRUMB, LONGEST, SHORTEST, spread, windows

pytestmark = pytest.mark.unit

BOS = 1


def texts(lengths: list[int], *, bos: bool) -> list[list[int]]:
    """Tokens that tell their passage and place: 1,000,000 × (passage + 1) + place."""
    return [[BOS] * bos + [1_000_000 * (number + 1) + place for place in range(length)]
            for number, length in enumerate(lengths)]


@given(st.integers(0, 300))
def test_every_passage_comes_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


@given(st.integers(1, 300), st.data())
def test_every_beginning_covers_the_whole_evenly(count: int, data: st.DataObject) -> None:
    """No gap is wider than twice what an even spread of as many would leave, give or take one."""
    taken = sorted(spread(count)[:data.draw(st.integers(1, count))])
    gaps = [b - a for a, b in zip([-1, *taken], [*taken, count], strict=True)]
    assert max(gaps) <= 2 * -(-count // len(taken)) + 1


@given(st.lists(st.integers(0, 900), max_size=12), st.integers(1, 4000), st.integers(60, 600), st.booleans())
def test_windows_are_parts_of_the_text_within_all_limits(
    lengths: list[int], positions: int, longest: int, bos: bool
) -> None:
    passages = texts(lengths, bos=bos)
    asked: list[int] = []

    def encode(index: int) -> list[int]:
        asked.append(index)
        return passages[index]

    found = list(windows(len(passages), encode, bos=BOS, longest=longest, positions=positions))
    assert sum(len(window) - 1 for window in found) <= positions
    assert all(2 <= len(window) <= min(longest, LONGEST) + 1 for window in found)
    assert len(asked) == len(set(asked))
    seen: set[tuple[int, int]] = set()
    for window in found:
        body = window[1:] if bos else window
        assert not bos or window[0] == BOS
        assert body == list(range(body[0], body[0] + len(body))) if body else True
        pairs = set(pairwise(window))
        assert pairs.isdisjoint(seen) or bos
        seen |= pairs
    if sum(max(len(tokens) - 1, 0) for tokens in passages) <= positions:
        # All of it is there, but for crumbs: a passage leaves fewer than that.
        unseen = sum(len(tokens) - 1 for tokens in passages if len(tokens) > 1) - len(seen)
        assert unseen <= (CRUMB + 1) * len(passages)


def test_with_many_passages_windows_are_short_and_passages_are_taken_from_everywhere() -> None:
    found = list(windows(8192, lambda index: [index * 1000 + place for place in range(800)], bos=None, longest=2000,
                         positions=1024))
    assert [len(window) - 1 for window in found] == [SHORTEST] * 8
    assert sorted(window[0] // 1000 // 1024 for window in found) == list(range(8))


def test_one_long_passage_is_read_in_the_longest_windows() -> None:
    found = list(windows(1, lambda index: list(range(5000)), bos=None, longest=4000, positions=1500))
    assert [len(window) - 1 for window in found] == [512, 512, 476]
    assert found[1][0] == found[0][-1]
