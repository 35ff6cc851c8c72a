"""Which models a start loads again, in which order, and which not; and the file that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.daemon.remembered import MOST, MOST_UNUSED, Kept, LoadedFile, Present, due, to_keep

pytestmark = pytest.mark.unit

#: Invalid UTF-8 in a string, and nesting without end.
DAMAGE = (b'{"models": [{"model": "\xff"}]}', b'{"x":' + b"[" * 100_000)


def unused_habits(name: str) -> float:
    return 0.0


def test_the_most_used_comes_first() -> None:
    rates = {"seldom": 1.0, "often": 5.0, "now-and-then": 2.0}
    found = due([Kept("seldom"), Kept("often@abc"), Kept("now-and-then")], rates.__getitem__)
    assert [one.model for one in found.again] == ["often@abc", "now-and-then", "seldom"]
    assert not found.left_out


def test_what_did_not_come_to_its_end_last_time_is_not_tried_again() -> None:
    found = due([Kept("fine"), Kept("deadly", trying=True)], unused_habits)
    assert [one.model for one in found.again] == ["fine"]
    ((left, reason),) = found.left_out
    assert left.model == "deadly"
    assert "did not come to its end" in reason


def test_what_nobody_asks_for_comes_back_a_few_times_only() -> None:
    """Else a box that restarts by itself would load it for ever."""
    file = [Kept("m")]
    starts = 0
    while found := due(file, unused_habits).again:
        starts += 1
        back = [Kept(found[0].model, unused=found[0].unused + 1)]
        file = to_keep([Present("m", asked=False)], [], back)
    assert starts == MOST_UNUSED
    assert to_keep([Present("m", asked=True)], [], [Kept("m", unused=MOST_UNUSED)]) == [Kept("m")]


def test_what_had_not_had_its_turn_is_kept_once() -> None:
    waiting = [Kept("b", unused=2), Kept("a", trying=True)]
    assert to_keep([Present("b", asked=True)], waiting, []) == [Kept("a", trying=True), Kept("b")]


@given(st.lists(st.builds(Kept, st.text(min_size=1, max_size=5), st.booleans(), st.integers(0, 5)), max_size=40))
def test_a_start_loads_no_more_than_a_few_and_none_twice(kept: list[Kept]) -> None:
    found = due(kept, unused_habits)
    assert len(found.again) <= MOST
    assert not {id(one) for one in found.again} & {id(one) for one, _ in found.left_out}
    assert not any(one.trying or one.unused >= MOST_UNUSED for one in found.again)


def test_the_file_reads_back_and_what_is_no_such_file_is_nothing(tmp_path: Path) -> None:
    file = LoadedFile(tmp_path / "loaded.json", tmp_path)
    assert file.read() == []
    kept = [Kept("a", trying=True), Kept("b@c", unused=2)]
    file.write(kept, durable=True)
    assert file.read() == kept
    for content in (b"", b"{", b'{"models": [1]}', *DAMAGE):
        (tmp_path / "loaded.json").write_bytes(content)
        assert file.read() == []
    file.remove()
    assert list(tmp_path.iterdir()) == []
