"""KV that outlives its worker, as the loop sees it: what comes back is what was offered, and no disk is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from edged.engines.base import State
from edged.store.kv import KvFolder
from edged.types import AdapterSpec, KvCacheSpec, LoadSpec
from edged.worker.kv_disk import MOST_QUEUED_BYTES, KvDisk, Reading

pytestmark = pytest.mark.unit

MODEL = "e" * 64
TOKENS = list(range(40))


def spec(root: Path, adapters: tuple[AdapterSpec, ...] = (), **bounds: Any) -> LoadSpec:
    said: dict[str, Any] = {"disk_bytes": 1 << 24, "write_bytes_per_day": 1 << 30, "ttl_s": 1e6, **bounds}
    return LoadSpec(name="m", version="1", digest=MODEL, engine="fake", path="/", file="f", adapters=adapters,
                    kv_cache=KvCacheSpec(folder=str(root / "kv"), **said))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., KvDisk]]:
    """As a worker opens it; each call is another worker's life."""
    made: list[KvDisk] = []

    def again(state_format: str = "f1", **more: Any) -> KvDisk:
        disk = Reading(spec(tmp_path, **more)).opened(state_format)
        assert disk is not None
        made.append(disk)
        return disk

    yield again
    for disk in made:
        disk.close()


def state(seed: int = 1) -> State:
    numbers = np.random.default_rng(seed)
    return State(len(TOKENS), (numbers.random((3, 40, 5), np.float32), numbers.integers(0, 255, 99, np.uint8)))


def arrive(disk: KvDisk, count: int = 1) -> list[Any]:
    """Until so many were written."""
    written: list[Any] = []
    ends_s = time.monotonic() + 10
    while len(written) < count and time.monotonic() < ends_s:
        written += disk.written()
        time.sleep(0.002)
    assert len(written) == count
    return written


def test_kv_comes_back_in_the_next_life(opened: Callable[..., KvDisk]) -> None:
    first = opened()
    assert first.known() == []
    assert first.offer("scope", None, TOKENS, state())
    arrive(first)
    (prefix,) = opened().known()
    assert (prefix.scope, prefix.adapter, prefix.tokens) == ("scope", None, TOKENS)
    back = opened().fetch(prefix)
    assert back is not None
    assert back.tokens == len(TOKENS)
    assert [part.tobytes() for part in back.parts] == [part.tobytes() for part in state().parts]
    assert (back.parts[0].view(np.float32).reshape(3, 40, 5) == state().parts[0]).all()


def test_what_is_there_is_not_wanted_again(opened: Callable[..., KvDisk]) -> None:
    disk = opened()
    disk.offer("", None, TOKENS, state())
    assert not disk.offer("", None, TOKENS, state())
    assert disk.offer("other scope", None, TOKENS, state())
    arrive(disk, 2)
    assert not opened().wants("", None, TOKENS, 100)
    assert disk.held_bytes > 2 * state().size_bytes


def test_another_format_is_deleted_and_never_served(opened: Callable[..., KvDisk]) -> None:
    disk = opened("f1")
    disk.offer("", None, TOKENS, state())
    arrive(disk)
    assert opened("f2").known() == []
    assert opened("f1").known() == []


def test_an_adapter_is_its_file_not_its_name(opened: Callable[..., KvDisk]) -> None:
    one = (AdapterSpec(name="tone", digest="1" * 64, path="/a"),)
    other = (AdapterSpec(name="tone", digest="2" * 64, path="/a"),)
    disk = opened(adapters=one)
    disk.offer("", "tone", TOKENS, state())
    arrive(disk)
    assert opened(adapters=other).known() == []
    assert opened().known() == []
    assert [prefix.adapter for prefix in opened(adapters=one).known()] == ["tone"]


def test_the_most_recently_used_are_known_first(opened: Callable[..., KvDisk]) -> None:
    disk = opened()
    for first in (1, 2, 3):
        disk.offer("", None, [first, *TOKENS], state(first))
        arrive(disk)
    oldest = next(prefix for prefix in opened().known() if prefix.tokens[0] == 1)
    assert opened().fetch(oldest) is not None
    assert [prefix.tokens[0] for prefix in opened().known()] == [1, 3, 2]


def test_what_is_gone_is_forgotten_and_may_come_again(opened: Callable[..., KvDisk], tmp_path: Path) -> None:
    disk = opened()
    disk.offer("", None, TOKENS, state())
    (prefix,) = arrive(disk)
    next((tmp_path / "kv").rglob("*.kv")).unlink()
    assert disk.fetch(prefix) is None
    assert disk.offer("", None, TOKENS, state())


def test_no_offer_waits_for_a_slow_disk(opened: Callable[..., KvDisk], monkeypatch: pytest.MonkeyPatch) -> None:
    disk_is_back = threading.Event()
    written: list[int] = []
    write = KvFolder.write

    def slow(self: KvFolder, *args: Any, **kwargs: Any) -> Any:
        disk_is_back.wait(10)
        written.append(1)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(KvFolder, "write", slow)
    disk = opened()
    assert disk.offer("", None, [1], state())
    assert disk.offer("", None, [2], state())
    assert not disk.wants("", None, [3], MOST_QUEUED_BYTES), "what waits holds memory"
    assert not written
    disk_is_back.set()
    arrive(disk, 2)


def test_a_refusing_disk_is_said_once_and_left_alone_for_a_while(
    opened: Callable[..., KvDisk], monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(KvFolder, "write", refuse)
    disk = opened()
    with structlog.testing.capture_logs() as said:
        assert disk.offer("", None, TOKENS, state())
        wait_for(lambda: disk.failed_writes == 1 and not disk.wants("", None, TOKENS, 1))
        disk._most_until_s = 0.0  # the pause is over
        wait_for(lambda: disk.offer("", None, TOKENS, state()))
        wait_for(lambda: disk.failed_writes == 2)
    assert [entry["reason"] for entry in said] == ["Read-only file system"]


def test_over_the_days_budget_only_what_still_fits_is_taken(opened: Callable[..., KvDisk]) -> None:
    disk = opened(write_bytes_per_day=3500)
    assert disk.offer("", None, [1], state())
    arrive(disk)
    disk.offer("", None, [2], state())
    wait_for(lambda: disk.wants("", None, [3], 10) and not disk.wants("", None, [3], 2000))
    assert len(opened().known()) == 1


def test_after_a_purge_nothing_of_before_is_known_or_written(opened: Callable[..., KvDisk], tmp_path: Path) -> None:
    disk = opened()
    disk.offer("", None, [1], state())
    arrive(disk)
    KvFolder(tmp_path / "kv", most_bytes=0, write_bytes_per_day=0, ttl_s=0).purge()
    disk.offer("", None, [2], state())
    wait_for(lambda: disk.purged)
    assert not disk.wants("", None, [3], 1)
    disk.forget()
    assert disk.known() == []
    assert disk.offer("", None, [3], state())
    arrive(disk)
    assert [prefix.tokens for prefix in opened().known()] == [[3]]


def test_off_is_off(tmp_path: Path) -> None:
    assert Reading(spec(tmp_path, disk_bytes=0)).opened("f1") is None
    assert Reading(spec(tmp_path)).opened("") is None
    assert not (tmp_path / "kv").exists()


def wait_for(happens: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < ends_s
        time.sleep(0.002)
