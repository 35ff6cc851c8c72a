"""KV out of the engine: in memory and in files. What comes back is what was there, for those it belongs to, and only
where that is sooner than computing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.base import RowWork, State
from edged.engines.fake import FakeGenerator, Knobs
from edged.types import KvCacheSpec, LoadSpec
from edged.worker.kept import Held, Kept
from edged.worker.kv_disk import KvDisk, Reading
from edged.worker.prefix import OPERATOR_SCOPE, PrefixTree
from edged.worker.rows import Placed, Rows
from edged.worker.worth import Worth
from tests.unit.worker.played import ADAPTERS, words

pytestmark = pytest.mark.unit

SYSTEM = words(100, seed=1)
KEY = "", None
Opened = Callable[[], KvDisk]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """The folder as each worker's life opens it."""
    made: list[KvDisk] = []

    def again() -> KvDisk:
        spec = LoadSpec(name="m", version="1", digest="e" * 64, engine="fake", path="/", file="f", kv_cache=KvCacheSpec(
            folder=str(tmp_path / "kv"), disk_bytes=1 << 24, write_bytes_per_day=1 << 30, ttl_s=1e6))
        disk = Reading(spec).opened("fake-1")
        assert disk is not None
        made.append(disk)
        return disk

    yield again
    for disk in made:
        disk.close()


class Worker:
    """Rows over the fake engine, and requests that are computed whole and end."""

    def __init__(self, *, rows: int = 2, trims: bool = True, ram_bytes: int = 1 << 20, disk: KvDisk | None = None,
                 worth: Worth | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.engine = FakeGenerator(Knobs(rows=rows, context=2000, trims=trims), ADAPTERS)
        self.rows = Rows(self.engine, ram_bytes=ram_bytes, disk=disk, worth=worth, clock=clock)
        self._disk = disk

    def run(self, tokens: list[int], *, scope: str = "", adapter: str | None = None, uses: int = 1) -> Placed:
        placed = self.rows.take(tokens, reuse=True, scope=scope, adapter=adapter, uses=uses)
        assert placed is not None
        number = ADAPTERS[adapter] if adapter else 0
        assert self.engine._rows[placed.row] == [token | number << 16 for token in tokens[: placed.length]]
        self.engine.step([RowWork(placed.row, tokens[placed.length:], 1, adapter)])
        self.rows.grow(placed.row, len(tokens) - placed.length)
        self.rows.release(placed.row)
        return placed

    def idle(self, files: int = 0) -> None:
        """Until nothing is left to tend to, and so many files came of it."""
        ends_s = time.monotonic() + 10
        while self.rows.tend() or (files and time.monotonic() < ends_s):
            if files and len(self.rows._files._files) >= files:
                break
        assert len(self.rows._files._files) >= files


def test_idle_moments_save_what_rows_hold_so_that_eviction_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(rows=1)
    worker.run(SYSTEM)
    worker.idle()
    assert worker.rows.ram_bytes == 4 * 100
    with monkeypatch.context() as patch:
        patch.setattr(worker.engine, "stash", None)
        worker.run(words(40, seed=2))
    assert worker.run([*SYSTEM, 261]) == (0, 100, "ram")


def test_what_comes_back_is_cut_to_the_common_beginning() -> None:
    worker = Worker(rows=1)
    worker.run([*SYSTEM, *words(50, seed=2)])
    worker.run(words(60, seed=3))
    assert worker.run([*SYSTEM, 299, 298]) == (0, 100, "ram")


def test_where_the_engine_cannot_cut_only_whole_snapshots_serve() -> None:
    worker = Worker(rows=1, trims=False)
    worker.run([*SYSTEM, *words(50, seed=2)])
    worker.run(words(60, seed=3))
    assert worker.run([*SYSTEM, 299, 298]).length == 0
    assert worker.run([*SYSTEM, *words(50, seed=2), 261]) == (0, 150, "ram")


def test_a_snapshot_that_is_a_beginning_of_another_goes_where_the_engine_cuts() -> None:
    worker, strict = Worker(rows=1), Worker(rows=1, trims=False)
    for one in (worker, strict):
        one.run(SYSTEM)
        one.idle()
        one.run([*SYSTEM, *words(50, seed=2)])
        one.idle()
    assert worker.rows.ram_bytes == 4 * 150
    assert strict.rows.ram_bytes == 4 * (100 + 150)


def test_the_limit_holds_and_what_was_used_stays() -> None:
    worker = Worker(rows=1, ram_bytes=4 * 250)
    worker.run(SYSTEM)
    for seed in range(2, 12):
        worker.run(words(90, seed=seed))
        assert worker.rows.ram_bytes <= 4 * 250
        if seed % 2:
            assert worker.run([*SYSTEM, 261]).length == 100


def test_of_snapshots_that_share_a_beginning_one_may_go_at_little_cost() -> None:
    """The beginning itself is not lost with it."""
    tree: PrefixTree[Held] = PrefixTree()
    kept = Kept(tree, 4 * 320, trims=True)
    alone = words(100, seed=4)
    for tokens in ([*SYSTEM, 261, 262], [*SYSTEM, 263, 264], alone):
        assert kept.put(KEY, tokens, State(len(tokens), (np.zeros(len(tokens), np.uint32),)))
    assert kept.put(KEY, words(60, seed=5), State(60, (np.zeros(60, np.uint32),)))
    assert [match.common for match in tree.matches(KEY, alone)] == [100]
    assert tree.matches(KEY, [*SYSTEM, 270])[0].common == 100


def test_what_can_never_fit_is_refused() -> None:
    kept = Kept(PrefixTree[Held](), 100, trims=True)
    assert not kept.put(KEY, SYSTEM, State(100, (np.zeros(100, np.uint32),)))
    assert kept.held_bytes == 0


def test_bringing_back_is_not_done_where_computing_is_sooner() -> None:
    """The clock says that a byte takes a second, and the engine that a token takes a tenth of one."""
    seconds = itertools.count(0, 400)
    worker = Worker(rows=1, worth=Worth(lambda: 10.0), clock=lambda: next(seconds))
    worker.run(SYSTEM)
    worker.run(words(40, seed=2))
    assert worker.run([*SYSTEM, 261]).length == 100  # nothing is known yet
    worker.run(words(40, seed=2))
    assert worker.run([*SYSTEM, 262]).length == 0


def test_one_bad_measurement_does_not_stand_for_ever() -> None:
    worth = Worth(lambda: 100.0)
    worth.moved("ram", 1000, 100.0)
    tries = 0
    while not worth.pays("ram", 1000, 5000):
        worth.declined("ram")
        tries += 1
    assert 10 < tries < 500
    assert not worth.pays("ram", 1000, 500)
    assert worth.pays("disk", 1000, 1)


def test_another_scope_or_adapter_gets_nothing_of_it() -> None:
    worker = Worker(rows=1)
    worker.run(SYSTEM, scope="a")
    worker.run(words(40, seed=2), scope="b")
    assert worker.run([*SYSTEM, 261], scope="b").length == 0
    assert worker.run([*SYSTEM, 261], scope="a", adapter="pirate").length == 0
    assert worker.run([*SYSTEM, 261], scope="a").length == 100


def test_what_the_operator_had_warmed_serves_every_scope_and_stays_the_operators() -> None:
    worker = Worker(rows=3)
    worker.run(SYSTEM, scope=OPERATOR_SCOPE)
    for scope in ("a", "b", ""):
        assert worker.run([*SYSTEM, 261], scope=scope).length == 100
    small = Worker(rows=1)
    small.run(SYSTEM, scope=OPERATOR_SCOPE)
    for scope in ("a", "b", ""):
        assert small.run([*SYSTEM, 261], scope=scope).length == 100
    small.run([*SYSTEM, 299, *words(20, seed=7)], scope="a")
    assert small.run([*SYSTEM, 299, *words(20, seed=7), 262], scope="b").length == 100


def test_nothing_is_left_once_it_is_not_trusted() -> None:
    worker = Worker(rows=2)
    worker.run(SYSTEM)
    worker.idle()
    worker.rows.drop_every_idle()
    assert worker.rows.ram_bytes == worker.engine.kv_used_tokens == 0
    assert worker.run([*SYSTEM, 261]).length == 0


@pytest.mark.parametrize("trims", [True, False])
def test_what_two_requests_began_with_is_there_in_the_next_workers_life(opened: Opened, trims: bool) -> None:
    """Just the shared beginning: neither of the questions."""
    first = Worker(disk=opened(), trims=trims, rows=3)
    first.run(SYSTEM)
    first.idle()
    first.run([*SYSTEM, *words(20, seed=2)])
    first.run([*SYSTEM, *words(20, seed=3)])
    first.idle(files=1)
    again = Worker(disk=opened(), trims=trims)
    assert again.run([*SYSTEM, 261]) == (0, 100, "disk")


def test_only_the_shared_beginning_is_copied_and_no_row_is_lost_by_it(opened: Opened) -> None:
    worker = Worker(disk=opened(), rows=4)
    worker.run([*SYSTEM, *words(20, seed=2)])
    worker.run([*SYSTEM, 299, *words(20, seed=3)])
    held = worker.engine.kv_used_tokens
    worker.idle(files=1)
    [file] = worker.rows._files._files
    assert file.prefix.tokens == SYSTEM
    assert worker.engine.kv_used_tokens == worker.rows.used_tokens == held


def test_the_shared_beginning_gets_its_file_also_where_every_row_holds_something(opened: Opened) -> None:
    worker = Worker(disk=opened(), rows=3)
    for seed in (2, 3, 4):
        worker.run([*SYSTEM, *words(20, seed=seed)])
    assert all(row.length for row in worker.rows._rows)
    worker.idle(files=1)
    [file] = worker.rows._files._files
    assert file.prefix.tokens == SYSTEM
    assert worker.engine.kv_used_tokens == worker.rows.used_tokens


def test_what_came_once_gets_no_file_and_what_counts_as_many_does_at_once(opened: Opened) -> None:
    disk = opened()
    worker = Worker(disk=disk, rows=4)
    worker.run(SYSTEM)
    worker.idle()
    assert not disk.written()
    worker.run(words(80, seed=5), uses=2)
    worker.idle(files=1)


def test_a_history_that_grows_does_not_get_a_file_a_turn(opened: Opened) -> None:
    worker = Worker(disk=opened(), rows=4)
    history = list(SYSTEM)
    for turn in range(10):
        worker.run(list(history))
        worker.idle(files=min(turn, 1))
        history += words(15, seed=turn)
    assert len(worker.rows._files._files) <= 3


def test_a_file_that_is_damaged_is_forgotten_and_its_prompt_computed(opened: Opened, tmp_path: Path) -> None:
    worker = Worker(disk=opened(), rows=2)
    worker.run(SYSTEM, uses=2)
    worker.idle(files=1)
    again = Worker(disk=opened())
    for file in (tmp_path / "kv").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
    assert again.run([*SYSTEM, 261]).length == 0
    assert not again.rows._files._files


def test_a_file_is_not_read_where_memory_has_as_much(opened: Opened) -> None:
    first = Worker(disk=opened(), rows=1)
    first.run(SYSTEM, uses=2)
    first.idle(files=1)
    again = Worker(disk=opened(), rows=1)
    assert again.run([*SYSTEM, 261]).source == "disk"
    assert again.run([*SYSTEM, 262]).source == "rows"


operations = st.lists(st.tuples(
    st.sampled_from(["run", "run", "run", "tend", "drop"]), st.integers(0, 100), st.integers(0, 3), st.integers(1, 40),
    st.sampled_from(["", "a"]), st.sampled_from([None, "pirate"])), max_size=30)


@given(operations, st.booleans(), st.sampled_from([0, 300, 2000]), st.integers(1, 3))
def test_whatever_comes_back_is_exactly_what_was_asked_for(
    orders: list[tuple[str, int, int, int, str, str | None]], trims: bool, ram_bytes: int, rows: int,
) -> None:
    """`run` compares what the row holds with the tokens, and with the adapter they were computed with."""
    worker = Worker(rows=rows, trims=trims, ram_bytes=ram_bytes)
    for what, shared, tail, length, scope, adapter in orders:
        if what == "tend":
            worker.rows.tend()
        elif what == "drop":
            worker.rows.drop_idle()
        else:
            worker.run([*SYSTEM[:shared], *words(length, seed=tail + 10)], scope=scope, adapter=adapter)
        assert worker.rows.used_tokens == worker.engine.kv_used_tokens
        assert worker.rows.ram_bytes <= ram_bytes
