"""KV files: bounded in bytes, writes a day and time, private, shared by many processes, whole or found out."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.store import Store, files, kv, locks
from edged.store.entries import Manifest
from edged.store.kv import Found, KvFolder, Outcome
from edged.store.kv_budget import WriteBudget
from edged.store.kv_format import (
    HEAD_BYTES,
    Damaged,
    Header,
    Identity,
    decode_header,
    decode_payload,
    encoded,
    file_bytes,
    header_bytes,
    make_header,
    token_bytes,
)
from tests.models import fake_folder, install

pytestmark = pytest.mark.unit

START = 1_800_000_000.0
DAY_S = 86_400.0
MODEL, OTHER_MODEL = "a" * 64, "b" * 64


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def folder_in(root: Path, clock: Clock | None = None, **bounds: Any) -> KvFolder:
    said: dict[str, Any] = {"most_bytes": 1 << 20, "write_bytes_per_day": 1 << 30, "ttl_s": 7 * DAY_S} | bounds
    return KvFolder(root / "kv", wall=clock or Clock(), **said)


def identity(*tokens: int, **more: Any) -> Identity:
    said: dict[str, Any] = {"model": MODEL, "state_format": "fake-1", "scope": "", "adapter": ""} | more
    return Identity(tokens=token_bytes(tokens or (1, 2, 3)), **said)


def put(folder: KvFolder, one: Identity, *parts: bytes) -> Outcome:
    return folder.write(one, [memoryview(part) for part in parts or (b"state",)], purges=folder.purges())


def contents(folder: KvFolder, found: Found) -> list[bytes] | None:
    parts = folder.read(found)
    return None if parts is None else [bytes(part) for part in parts]


def decoded(data: bytes) -> Header:
    length = header_bytes(data[:HEAD_BYTES])
    return decode_header(data[:HEAD_BYTES], data[HEAD_BYTES:HEAD_BYTES + length], len(data))


def found_tokens(folder: KvFolder, model: str = MODEL) -> list[list[int]]:
    return [found.header.identity.token_list() for found in folder.of_model(model)]


@given(parts=st.lists(st.binary(max_size=300), max_size=5), tokens=st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_a_file_gives_back_what_was_written(parts: list[bytes], tokens: list[int]) -> None:
    views = [memoryview(part) for part in parts]
    header = make_header(identity(*tokens), views)
    data = b"".join(encoded(header, views))
    assert len(data) == file_bytes(header)
    again = decoded(data)
    assert again == header
    assert again.identity.token_list() == (tokens or [1, 2, 3])
    assert [bytes(part) for part in decode_payload(again, data[-again.payload_bytes or len(data):])] == parts


@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_are_said_to_be_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        decoded(data)


@pytest.mark.parametrize("other", [
    {"model": OTHER_MODEL}, {"state_format": "fake-2"}, {"scope": "sha256:1"}, {"adapter": "x"},
    {"tokens": token_bytes([1, 2])},
])
def test_what_changes_kv_is_in_the_key(other: dict[str, Any]) -> None:
    same = {"model": MODEL, "state_format": "fake-1", "scope": "", "adapter": "", "tokens": token_bytes([1, 2, 3])}
    assert Identity(**same).key == identity().key  # type: ignore[arg-type]
    assert Identity(**{**same, **other}).key != identity().key


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    assert put(folder, identity()) is Outcome.WRITTEN
    for path in [tmp_path / "kv", *(tmp_path / "kv").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_models_do_not_see_each_others(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    put(folder, identity(1), b"mine")
    put(folder, identity(2, model=OTHER_MODEL), b"its")
    assert found_tokens(folder) == [[1]]
    assert found_tokens(folder, OTHER_MODEL) == [[2]]
    assert contents(folder, folder.of_model(MODEL)[0]) == [b"mine"]


def test_the_same_is_written_once(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, write_bytes_per_day=10_000)
    left = folder.left_today_bytes()
    assert [put(folder, identity()), put(folder, identity())] == [Outcome.WRITTEN, Outcome.THERE]
    assert folder.left_today_bytes() == left - folder.held_bytes()


def test_the_least_recently_used_of_all_models_makes_room(tmp_path: Path) -> None:
    clock = Clock()
    folder = folder_in(tmp_path, clock, most_bytes=3500)
    for number, model in enumerate((MODEL, OTHER_MODEL, MODEL), start=1):
        clock.now += 1
        assert put(folder, identity(number, model=model), bytes(900)) is Outcome.WRITTEN
    clock.now += 1
    assert folder.read(next(one for one in folder.of_model(MODEL) if one.header.identity.token_list() == [1]))
    clock.now += 1
    put(folder, identity(4), bytes(900))
    assert (found_tokens(folder), found_tokens(folder, OTHER_MODEL)) == ([[4], [1], [3]], [])
    assert folder.held_bytes() <= 3500


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3000)), max_size=12), st.integers(0, 6000))
def test_bounds_hold_whatever_is_put(puts: list[tuple[int, int]], most_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = folder_in(Path(root), most_bytes=most_bytes, write_bytes_per_day=20_000)
        for number, size in puts:
            put(folder, identity(number, size), bytes(size))
            assert folder.held_bytes() <= most_bytes
        written = sum(len(path.read_bytes()) for path in Path(root).rglob("*.kv"))
        assert 20_000 - folder.left_today_bytes() >= written


def test_one_that_is_larger_than_the_bound_pushes_nothing_out(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, most_bytes=2000)
    put(folder, identity(1))
    assert put(folder, identity(2), bytes(4000)) is Outcome.NO_ROOM
    assert found_tokens(folder) == [[1]]


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_in(tmp_path)
    monkeypatch.setattr("edged.store.space.MARGIN_BYTES", 1 << 60)
    assert put(folder, identity()) is Outcome.NO_ROOM
    assert not list(tmp_path.rglob("*.kv"))


def test_no_more_is_written_a_day_than_was_said_after_restarts_too(tmp_path: Path) -> None:
    clock = Clock()
    outcomes = [put(folder_in(tmp_path, clock, write_bytes_per_day=2500), identity(number), bytes(900))
                for number in (1, 2, 3)]
    assert outcomes == [Outcome.WRITTEN, Outcome.WRITTEN, Outcome.OVER_BUDGET]
    clock.now += 25 * 3600
    assert put(folder_in(tmp_path, clock, write_bytes_per_day=2500), identity(3), bytes(900)) is Outcome.WRITTEN


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3 * 24 * 3600), st.integers(1, 600)), max_size=30))
def test_no_24_hours_have_more_than_a_days_bytes(steps: list[tuple[int, int]]) -> None:
    clock, spent = Clock(), list[tuple[float, int]]()
    with tempfile.TemporaryDirectory() as root:
        for pause_s, count in steps:
            clock.now += pause_s
            if WriteBudget(Path(root, "ledger"), 1000, clock).spend(count):
                spent.append((clock.now, count))
            assert sum(count for at, count in spent if at > clock.now - DAY_S) <= 1000


def test_a_clock_that_jumps_stops_no_writes_for_longer_than_a_day(tmp_path: Path) -> None:
    clock = Clock()
    budget = WriteBudget(tmp_path / "ledger", 1000, clock)
    clock.now += 365 * DAY_S
    assert budget.spend(900)
    clock.now = START
    assert not budget.spend(900), "what was written in the future counts as written now"
    assert budget.spend(100)
    clock.now += DAY_S + 3600
    assert budget.spend(900)


def test_a_damaged_ledger_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(b"\0" * 20)
    assert WriteBudget(tmp_path / "ledger", 1000, Clock()).spend(1000)


def test_what_nobody_used_for_long_goes_though_its_model_is_never_loaded(tmp_path: Path) -> None:
    clock = Clock()
    folder = folder_in(tmp_path, clock)
    put(folder, identity(1))
    put(folder, identity(2))
    clock.now += 6 * DAY_S
    used = next(one for one in folder.of_model(MODEL) if one.header.identity.token_list() == [2])
    assert folder.read(used) is not None
    clock.now += 2 * DAY_S
    assert folder.expire() == 1
    assert found_tokens(folder) == [[2]]
    clock.now += 8 * DAY_S
    assert folder.read(used) is None
    assert folder.expire() == 0
    assert not (tmp_path / "kv" / MODEL).exists()


def test_a_file_of_the_future_ages_from_now_on(tmp_path: Path) -> None:
    clock = Clock()
    folder = folder_in(tmp_path, clock)
    clock.now = START + 1000 * DAY_S
    put(folder, identity())
    clock.now = START
    assert folder.expire() == 0
    clock.now += 8 * DAY_S
    assert folder.expire() == 1


def test_a_smaller_bound_holds_from_the_next_look_on(tmp_path: Path) -> None:
    put(folder_in(tmp_path), identity(1), bytes(900))
    off = folder_in(tmp_path, most_bytes=0)
    assert off.expire() == 1
    assert off.held_bytes() == 0


def test_what_died_while_it_wrote_leaves_nothing_for_ever(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    put(folder, identity())
    half = tmp_path / "kv" / MODEL / "write-1-ab"
    half.write_bytes(b"half")
    folder.expire()
    assert not half.exists()
    assert found_tokens(folder) == [[1, 2, 3]]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(operation: files.Operation) -> None:
        if operation.kind == "write" and operation.offset > 500:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "watch", refuse)
    with pytest.raises(OSError, match="No space"):
        put(folder_in(tmp_path, most_bytes=8 << 20), identity(), bytes(2 << 20), bytes(900))
    assert [path.name for path in (tmp_path / "kv" / MODEL).iterdir()] == []


def test_nothing_of_before_a_purge_is_written_after_it(tmp_path: Path) -> None:
    worker, operator = folder_in(tmp_path), folder_in(tmp_path)
    purges = worker.purges()
    put(worker, identity(1))
    assert operator.purge() == 1
    assert worker.write(identity(2), [memoryview(b"said before")], purges=purges) is Outcome.PURGED
    assert found_tokens(worker) == []
    assert put(worker, identity(3)) is Outcome.WRITTEN


def test_a_purge_keeps_the_days_budget(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, write_bytes_per_day=1200)
    put(folder, identity(1), bytes(900))
    folder.purge()
    assert put(folder, identity(1), bytes(900)) is Outcome.OVER_BUDGET


def test_a_file_that_was_replaced_by_a_whole_one_of_other_tokens_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    put(folder, identity(1), b"one")
    put(folder, identity(2), b"two")
    one, two = sorted(folder.of_model(MODEL), key=lambda found: found.header.identity.token_list())
    os.replace(two.path, one.path)
    assert folder.read(one) is None
    assert found_tokens(folder) == []


def test_nobody_waits_for_ever_for_a_process_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_in(tmp_path)
    put(folder, identity(1))
    monkeypatch.setattr(kv, "LOCK_TIMEOUT_S", 0.0)
    with locks.lock(tmp_path / "kv" / "lock"):
        for act in (folder.purge, folder.expire, lambda: put(folder, identity(2))):
            with pytest.raises(TimeoutError, match="another process has held the lock"):
                act()
    assert folder.purge() == 1


def test_links_and_odd_files_are_not_followed(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    put(folder, identity(1), b"one")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"not ours")
    (tmp_path / "kv" / MODEL / f"{'0' * 64}.kv").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "kv" / MODEL / f"{'1' * 64}.kv")
    assert found_tokens(folder) == [[1]]
    assert folder.purge() == 1
    assert elsewhere.exists()


def kv_of(store: Store, manifest: Manifest) -> Path:
    folder = KvFolder(store.home / "kv", most_bytes=1 << 20, write_bytes_per_day=1 << 30, ttl_s=DAY_S)
    assert put(folder, identity(model=manifest.digest)) is Outcome.WRITTEN
    return store.home / "kv" / manifest.digest


def test_a_model_that_is_removed_takes_its_kv_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    one, other = (install(store, str(fake_folder(tmp_path / name, context=context)))
                  for name, context in (("one", 64), ("other", 128)))
    kept, gone = kv_of(store, other), kv_of(store, one)
    store.remove("one")
    assert not gone.exists()
    assert kept.exists()
    store.publish(msgspec.structs.replace(other, name="twin"))
    store.remove("other")
    assert kept.exists(), "another name still has the model"


def test_garbage_collection_takes_kv_of_models_that_are_gone_and_counts_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    here = install(store, str(fake_folder(tmp_path / "tiny")))
    before = store.usage()
    kept, gone = kv_of(store, here), kv_of(store, msgspec.structs.replace(here, digest="f" * 64))
    size = sum(path.stat().st_size for path in gone.iterdir())
    assert store.usage() >= before + 2 * size
    with locks.lease(store.layout.model_lock("f" * 64)):
        assert store.collect().bytes == 0
    assert store.collect().bytes == size
    assert (kept.exists(), gone.exists()) == (True, False)
