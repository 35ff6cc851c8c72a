"""Memory full of zeros goes back to the system, and nothing that is read changes."""

from __future__ import annotations

import mmap
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.pages import LEAST_BYTES, PIECE_BYTES, give_back_zeros, new_ranges, private_ranges

pytestmark = pytest.mark.unit

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its mappings")
def test_zeros_of_a_new_mapping_are_given_back_and_its_content_stays() -> None:
    before = private_ranges()
    with mmap.mmap(-1, 96 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(bytes(96 * MIB))
        memory[40 * MIB:40 * MIB + 5] = b"token"
        memory[95 * MIB] = 7
        resident = psutil.Process().memory_info().rss
        given_back = give_back_zeros(before)
        assert given_back >= 90 * MIB
        assert resident - psutil.Process().memory_info().rss > 80 * MIB
        assert memory[40 * MIB:40 * MIB + 5] == b"token"
        assert memory[95 * MIB] == 7
        assert not any(memory[:MIB])
        memory[:4] = b"more"
        assert memory[:5] == b"more\0"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its mappings")
def test_what_was_mapped_before_is_left_alone() -> None:
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(bytes(64 * MIB))
        assert give_back_zeros(private_ranges()) == 0


_points = st.lists(st.integers(0, 40), min_size=0, max_size=12, unique=True).map(sorted)


def _ranges(points: list[int]) -> list[tuple[int, int]]:
    return [(one * LEAST_BYTES, other * LEAST_BYTES) for one, other in zip(points[::2], points[1::2], strict=False)]


@given(before=_points.map(_ranges), after=_points.map(_ranges))
def test_new_ranges_are_what_only_the_later_look_covers(
    before: list[tuple[int, int]], after: list[tuple[int, int]],
) -> None:
    def covered(ranges: list[tuple[int, int]]) -> set[int]:
        return {unit for start, end in ranges for unit in range(start // LEAST_BYTES, end // LEAST_BYTES)}

    assert covered(new_ranges(before, after)) == covered(after) - covered(before)


def test_small_mappings_are_not_looked_at() -> None:
    assert new_ranges([], [(0, LEAST_BYTES - PIECE_BYTES)]) == []
