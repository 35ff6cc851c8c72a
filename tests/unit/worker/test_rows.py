"""Rows over the fake engine, which raises for a fork into a row in use and knows the real tokens of every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.base import EngineError, RowWork, State
from edged.engines.fake import FakeGenerator, Knobs
from edged.worker.found import MIN_PREFIX_TOKENS
from edged.worker.prefix import common_prefix
from edged.worker.rows import Rows
from tests.unit.worker.played import ADAPTERS, words

pytestmark = pytest.mark.unit

PROMPT = words(20, seed=1)
OTHER = words(20, seed=2)


class Store(FakeGenerator):
    """Keeps what was done to rows."""

    def __init__(self, rows: int, kv_tokens: int | None = None) -> None:
        super().__init__(Knobs(rows=rows, context=100, kv_tokens=kv_tokens), ADAPTERS)
        self.forks: list[tuple[int, int, int]] = []
        self.broken_stash = False

    def fork(self, src: int, dst: int, keep: int) -> int:
        self.forks.append((src, dst, keep))
        return super().fork(src, dst, keep)

    def stash(self, row: int) -> State:
        if self.broken_stash:
            raise EngineError("no room for the state")
        return super().stash(row)

    def tokens(self, row: int) -> list[int]:
        return [cell & 0xFFFF for cell in self._rows[row]]

    def adapters(self, row: int) -> set[int]:
        """The numbers of those that the row's KV was computed with."""
        return {cell >> 16 for cell in self._rows[row]}


class Table:
    """Rows, and a step that computes all of a sequence as the loop would."""

    def __init__(self, rows: int, kv_tokens: int | None = None) -> None:
        self.store = Store(rows, kv_tokens)
        self.rows = Rows(self.store)

    def run(self, tokens: list[int], adapter: str | None = None) -> tuple[int, int]:
        """(row, tokens that were not computed again)."""
        placed = self.rows.take(tokens, reuse=True, adapter=adapter)
        assert placed is not None
        row, length, _ = placed
        assert self.store.tokens(row) == tokens[:length]
        self.store.step([RowWork(row, tokens[length:], 1, adapter)])
        self.rows.grow(row, len(tokens) - length)
        assert self.rows.used_tokens == self.store.kv_used_tokens
        return row, length

    def ended(self, tokens: list[int], adapter: str | None = None) -> int:
        row, _ = self.run(tokens, adapter)
        self.rows.release(row)
        return row


def test_a_row_that_is_wholly_the_beginning_is_taken_over_without_a_fork() -> None:
    table = Table(rows=3)
    first = table.ended(PROMPT)
    assert table.run([*PROMPT, *OTHER]) == (first, len(PROMPT))
    assert not table.store.forks


def test_of_an_idle_row_that_went_on_otherwise_the_common_part_is_forked() -> None:
    table = Table(rows=3)
    first = table.ended([*PROMPT, *OTHER])
    row, reused = table.run([*PROMPT, 65, 66])
    assert reused == len(PROMPT)
    assert table.store.forks == [(first, row, reused)]
    assert table.run([*PROMPT, *OTHER, 67]) == (first, 40)  # the other answer is still there


def test_a_running_row_is_forked_as_far_as_it_is() -> None:
    table = Table(rows=3)
    first, _ = table.run(PROMPT)
    row, reused = table.run([*PROMPT, 65])
    assert (reused, row != first) == (len(PROMPT), True)


def test_the_last_token_is_always_computed_for_its_logits() -> None:
    table = Table(rows=3)
    table.ended(PROMPT)
    _, reused = table.run(PROMPT)
    assert reused == len(PROMPT) - 1


def test_with_no_other_row_the_idle_one_is_cut_to_the_common_part() -> None:
    table = Table(rows=1)
    table.ended([*PROMPT, *OTHER])
    assert table.run([*PROMPT, 65, 66]) == (0, len(PROMPT))
    assert table.store.tokens(0) == [*PROMPT, 65, 66]


def test_of_equal_beginnings_the_one_that_needs_no_fork_is_used() -> None:
    table = Table(rows=4)
    table.run([*PROMPT, *OTHER])
    table.ended([*PROMPT, 65])
    whole = table.ended(PROMPT)
    forks = len(table.store.forks)
    assert table.run([*PROMPT, 66, 67]) == (whole, len(PROMPT))
    assert len(table.store.forks) == forks


def test_a_short_common_beginning_is_computed_again() -> None:
    table = Table(rows=2)
    table.ended(PROMPT)
    assert table.run([*PROMPT[: MIN_PREFIX_TOKENS - 1], 65, 66])[1] == 0
    assert table.run([*PROMPT[:MIN_PREFIX_TOKENS], 65, 66])[1] == MIN_PREFIX_TOKENS


def test_where_kv_cannot_leave_its_row_an_idle_row_is_cut_and_nobody_waits() -> None:
    table = Table(rows=3)
    table.store.caps = replace(table.store.caps, moves_kv=False)
    table.rows = Rows(table.store, ram_bytes=1 << 20)
    first = table.ended([*PROMPT, *OTHER])
    assert table.run([*PROMPT, 65, 66]) == (first, len(PROMPT))
    assert table.rows.reusable([*PROMPT, 65, 66, 67], adapter=None, scope="") == (0, [])
    assert table.run([*PROMPT, 65, 66, 67])[1] == 0
    assert not table.store.forks
    assert not table.rows.tend()


def test_reuse_can_be_refused() -> None:
    table = Table(rows=2)
    table.ended(PROMPT)
    assert table.rows.take([*PROMPT, 65], reuse=False) is not None
    assert not table.store.forks


def test_all_busy_means_none() -> None:
    table = Table(rows=2)
    table.run(PROMPT)
    table.run(OTHER)
    assert table.rows.take([*PROMPT, 65], reuse=True) is None
    assert table.rows.unstash(PROMPT, State(3, (np.array(PROMPT[:3], np.uint32),))) is None
    assert table.rows.busy == 2


def test_the_idle_row_that_ended_first_goes_first() -> None:
    """When it came does not matter: a long answer that has just ended is the newest."""
    table = Table(rows=2)
    long, _ = table.run(PROMPT)
    short = table.ended(OTHER)
    table.rows.release(long)
    assert table.run(words(10, seed=3))[0] == short


def test_a_prefix_that_others_fork_from_stays() -> None:
    table = Table(rows=3)
    system = table.ended([*PROMPT, 1, 2, 3])
    table.ended(OTHER)
    table.ended([*PROMPT, 65, 66])  # forks from the first
    table.run(words(10, seed=3))
    assert table.store.tokens(system)[: len(PROMPT)] == PROMPT


def test_idle_rows_are_dropped_oldest_first_and_busy_ones_never() -> None:
    table = Table(rows=3)
    busy, _ = table.run(PROMPT)
    first, second = table.ended(OTHER), table.ended(words(10, seed=3))
    assert table.rows.drop_idle()
    assert (table.store.tokens(first), len(table.store.tokens(second))) == ([], 10)
    assert table.rows.drop_idle()
    assert not table.rows.drop_idle()
    assert table.store.tokens(busy) == PROMPT
    assert table.rows.used_tokens == table.rows.busy_tokens == len(PROMPT)


def test_a_discarded_row_is_emptied_even_where_a_failed_step_left_what_nobody_counted() -> None:
    table = Table(rows=1)
    placed = table.rows.take(PROMPT, reuse=True)
    assert placed == (0, 0, "rows")
    table.store.step([RowWork(0, [65, 66], 0)])  # not grown: the step is told to have failed
    table.rows.discard(0)
    assert table.store.kv_used_tokens == 0
    assert table.run(OTHER) == (0, 0)


def test_what_was_stashed_comes_back_as_it_was() -> None:
    table = Table(rows=2)
    row, _ = table.run(PROMPT)
    state = table.rows.stash(row)
    assert state is not None
    assert table.rows.busy == table.rows.used_tokens == 0
    table.run(OTHER)
    placed = table.rows.unstash([*PROMPT, 65], state)
    assert placed is not None
    assert placed[1] == len(PROMPT)
    assert table.store.tokens(placed[0]) == PROMPT


def test_idle_rows_make_room_for_what_comes_back() -> None:
    table = Table(rows=4, kv_tokens=100)
    row, _ = table.run(words(50, seed=4))
    state = table.rows.stash(row)
    assert state is not None
    for seed in (5, 6, 7):
        table.ended(words(30, seed=seed))
    placed = table.rows.unstash(words(50, seed=4), state)
    assert placed is not None
    assert placed[1] == 50
    assert table.store.kv_used_tokens <= 100


@pytest.mark.parametrize("empty", [True, False])
def test_an_empty_row_and_one_that_cannot_be_saved_are_just_emptied(empty: bool) -> None:
    table = Table(rows=1)
    table.store.broken_stash = True
    row = (table.rows.take(PROMPT, reuse=True) or (0, 0))[0] if empty else table.run(PROMPT)[0]
    assert table.rows.stash(row) is None
    assert table.rows.busy == table.store.kv_used_tokens == 0


some_tokens = st.lists(st.sampled_from([1, 2]), max_size=30)


@given(some_tokens, some_tokens, st.integers(0, 30))
def test_the_common_beginning_is_that_of_a_plain_search(left: list[int], right: list[int], limit: int) -> None:
    limit = min(limit, len(left), len(right))
    wanted = next((at for at in range(limit) if left[at] != right[at]), limit)
    assert common_prefix(left, right, limit) == wanted


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "discard", "drop", "stash"]), st.integers(0, 2),
                          st.integers(1, 30)), max_size=40))
def test_lengths_are_those_of_the_engine_whatever_is_done(operations: list[tuple[str, int, int]]) -> None:
    table = Table(rows=3, kv_tokens=400)
    busy: dict[int, list[int]] = {}
    stashed: list[tuple[list[int], State]] = []
    for operation, which, count in operations:
        if operation == "take" and len(busy) < 3:
            tokens = [*PROMPT[:count], *words(count % 7, seed=which)]
            row, _ = table.run(tokens)
            busy[row] = tokens
        elif operation == "drop":
            table.rows.drop_idle()
        elif busy:
            row = sorted(busy)[which % len(busy)]
            tokens = busy.pop(row)
            if operation == "stash" and (state := table.rows.stash(row)):
                stashed.append((tokens, state))
            elif operation == "release":
                table.rows.release(row)
            else:
                table.rows.discard(row)
        elif stashed:
            tokens, state = stashed.pop()
            placed = table.rows.unstash(tokens, state)
            assert placed is not None
            assert table.store.tokens(placed[0]) == tokens[: placed[1]]
            busy[placed[0]] = tokens
        assert table.rows.used_tokens == table.store.kv_used_tokens
        assert table.rows.busy == len(busy)
        assert table.rows.busy_tokens == sum(len(table.store.tokens(row)) for row in busy)


def test_a_prefix_is_reused_under_the_same_adapter_only() -> None:
    table = Table(rows=4)
    table.ended(PROMPT)
    table.ended(PROMPT, "pirate")
    assert table.run([*PROMPT, 65], "poet")[1] == 0
    assert table.run([*PROMPT, 65], "pirate")[1] == len(PROMPT)
    assert table.run([*PROMPT, 65])[1] == len(PROMPT)


@given(st.lists(st.tuples(st.sampled_from(["take", "take", "release", "stash", "drop"]), st.integers(0, 2),
                          st.sampled_from([None, *ADAPTERS]), st.integers(1, 20)), max_size=40))
def test_all_kv_of_a_row_was_computed_with_its_own_adapter(
    operations: list[tuple[str, int, str | None, int]],
) -> None:
    table = Table(rows=3, kv_tokens=400)
    busy: dict[int, tuple[list[int], str | None]] = {}
    stashed: list[tuple[list[int], str | None, State]] = []
    for operation, which, adapter, count in operations:
        if operation == "take" and len(busy) < 3:
            tokens = [*PROMPT[:count], *words(count % 5, seed=which)]
            busy[table.run(tokens, adapter)[0]] = tokens, adapter
        elif operation == "drop":
            table.rows.drop_idle()
        elif operation == "stash" and stashed and len(busy) < 3:
            tokens, own, state = stashed.pop()
            placed = table.rows.unstash(tokens, state, adapter=own)
            assert placed is not None
            busy[placed[0]] = tokens, own
        elif busy:
            row = sorted(busy)[which % len(busy)]
            tokens, own = busy.pop(row)
            if operation == "stash" and (kept := table.rows.stash(row)):
                stashed.append((tokens, own, kept))
            else:
                table.rows.release(row)
        for row, (_, own) in busy.items():
            assert table.store.adapters(row) <= {ADAPTERS[own] if own else 0}
