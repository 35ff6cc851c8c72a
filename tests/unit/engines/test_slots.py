"""Rows become neighbours with few swaps, whatever was asked for before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.slots import Slots

pytestmark = pytest.mark.unit

ROWS = 8


@given(st.lists(st.sets(st.integers(0, ROWS - 1), min_size=1), min_size=1, max_size=20))
def test_rows_are_neighbours_after_the_swaps_and_content_follows(asked: list[set[int]]) -> None:
    slots = Slots(ROWS)
    content = list(range(ROWS))
    for rows in asked:
        for one, other in slots.gather(rows):
            content[one], content[other] = content[other], content[one]
        taken = sorted(slots[row] for row in rows)
        assert taken == list(range(taken[0], taken[0] + len(rows)))
        assert all(content[slots[row]] == row and slots.row_in(slots[row]) == row for row in range(ROWS))


def test_neighbours_stay_where_they_are() -> None:
    assert Slots(ROWS).gather([3, 2, 4]) == []


def test_a_row_that_left_the_middle_costs_one_swap() -> None:
    slots = Slots(ROWS)
    assert slots.gather([0, 1, 3, 4]) in ([(0, 2)], [(4, 2)])
