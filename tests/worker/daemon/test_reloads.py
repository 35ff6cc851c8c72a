"""Models that were in memory come back after a restart: two routers over one home, one after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edged.daemon.remembered import Kept, LoadedFile
from edged.daemon.router import LOADED_FILE, ModelState
from edged.store.entries import Manifest
from tests.worker.daemon.rig import Rig

pytestmark = pytest.mark.worker

Make = Callable[..., Rig]
MIB = 1 << 20


def file_of(r: Rig) -> LoadedFile:
    return LoadedFile(r.store.home / LOADED_FILE, r.store.layout.tmp)


def keep(r: Rig, *kept: Kept) -> None:
    """As if these had been in memory before."""
    file_of(r).write(list(kept), durable=False)


def kept(r: Rig) -> list[str]:
    return [one.model for one in file_of(r).read()]


async def keeps(r: Rig, *models: str) -> None:
    for _ in range(500):
        if kept(r) == list(models):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(kept(r))


async def reach(r: Rig, model: str, state: ModelState, limit_s: float = 20) -> None:
    for _ in range(int(limit_s / 0.02)):
        if r.router.status(model).state is state:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(r.router.status(model))


async def outcome(r: Rig, model: str, which: str) -> None:
    for _ in range(1000):
        if r.metric("edged_model_reloads_total", model=model, outcome=which):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{model} was not {which}")


def install(r: Rig, name: str, mib: int = 100, **knobs: Any) -> Manifest:
    manifest = r.install(name, **knobs)
    r.router._site.footprints.record(manifest.digest, mib * MIB)
    return manifest


async def test_what_was_in_memory_is_there_before_anybody_asks(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    async with first:
        for name in ("a", "b", "c"):
            first.install(name)
        await first.answer("a")
        await first.router.load(f"b@{first.store.manifest('b').version}")
        await first.answer("c")
        await first.router.unload("c")
        await first.router.drain(5)
    async with Rig(tmp_path) as second:
        await reach(second, "a", ModelState.READY)
        await reach(second, "b", ModelState.READY)
        assert second.router.status("c").state is ModelState.ABSENT
        assert second.router.status("a").reloaded
        assert second.metric("edged_model_reloads_total", model="a", outcome="ready") == 1
        assert (await second.answer("a", tokens=2)).tokens == 2
        assert second.metric("edged_model_load_seconds_count", model="a") == 1


async def test_the_file_follows_what_is_in_memory_without_a_stop(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        await r.answer("m")
        await keeps(r, "m")


async def test_a_model_whose_keep_alive_is_nothing_is_not_kept(rig: Make) -> None:
    async with rig(keep_alive_s=0) as r:
        r.install("m")
        await r.answer("m")
        await r.router.drain(5)
        assert kept(r) == []


async def test_it_goes_as_any_idle_model_does(rig: Make) -> None:
    r = rig(keep_alive_s=0.2)
    r.install("m")
    keep(r, Kept("m"))
    async with r:
        await outcome(r, "m", "ready")
        await reach(r, "m", ModelState.ABSENT)


async def test_only_as_many_come_back_as_there_is_room_for_the_most_used_first(rig: Make) -> None:
    r = rig(memory_bytes=250 * MIB)
    for name in ("often", "seldom", "never"):
        install(r, name)
    now_s = r.router._site.clock()
    for name, uses in (("often", 3), ("seldom", 1)):
        for _ in range(uses):
            r.router._site.habits.used(name, now_s := now_s + 3600)
    keep(r, Kept("never"), Kept("often"), Kept("seldom"))
    async with r:
        await outcome(r, "never", "no_room")
        assert r.router.status("often").state is ModelState.READY
        assert r.router.status("seldom").state is ModelState.READY
        assert r.router.status("never").state is ModelState.ABSENT


async def test_a_client_shares_the_load_that_is_under_way(rig: Make) -> None:
    r = rig()
    r.install("m", load_s=0.5)
    keep(r, Kept("m"))
    async with r:
        await reach(r, "m", ModelState.LOADING)
        await r.answer("m")
        assert r.metric("edged_model_load_seconds_count", model="m") == 1
        assert r.metric("edged_model_reloads_total", model="m", outcome="ready") == 1


async def test_a_load_that_nobody_asked_for_gives_way_to_one_that_somebody_waits_for(rig: Make) -> None:
    r = rig(memory_bytes=150 * MIB)
    install(r, "back", load_s=30)
    install(r, "wanted")
    keep(r, Kept("back"))
    async with r:
        await reach(r, "back", ModelState.LOADING)
        await asyncio.wait_for(r.answer("wanted"), 15)
        assert r.metric("edged_model_reloads_total", model="back", outcome="gave_way") == 1
        assert r.router.status("back").state is ModelState.ABSENT


@pytest.mark.parametrize(
    "knobs", [{"crash_on_load": True}, {"refuse": "weights.bin is cut short"}, {"refuse_memory": True}])
async def test_what_fails_is_tried_once_in_this_life_and_not_in_the_next(rig: Make, knobs: dict[str, Any]) -> None:
    r = rig()
    r.install("m", **knobs)
    keep(r, Kept("m"))
    async with r:
        await outcome(r, "m", "failed")
        await asyncio.sleep(0.3)  # more than the first back-off
        assert r.router.status("m").state is ModelState.ABSENT
        assert r.metric("edged_worker_restarts_total", model="m") <= 1
        await keeps(r)


async def test_a_model_that_died_comes_back_only_once_somebody_loaded_it_again(rig: Make) -> None:
    async with rig() as r:
        r.install("m", crash_at_token=3)
        await r.router.load("m")
        generation = await r.generate("m", tokens=8)
        with pytest.raises(Exception, match="died"):
            async for _ in generation:
                pass
        await r.router.drain(5)
        assert kept(r) == []


async def test_what_was_being_tried_when_the_daemon_was_killed_is_left_alone(rig: Make) -> None:
    r = rig()
    r.install("deadly")
    r.install("fine")
    keep(r, Kept("deadly", trying=True), Kept("fine"))
    async with r:
        await outcome(r, "fine", "ready")
        assert r.router.status("deadly").state is ModelState.ABSENT
        assert r.metric("edged_model_reloads_total", model="deadly", outcome="left_out") == 1
        await r.answer("deadly")
        await r.router.drain(5)
        assert kept(r) == ["deadly", "fine"]


async def test_the_disk_says_that_it_is_tried_before_its_worker_starts(rig: Make) -> None:
    r = rig()
    r.install("m", load_s=30)
    keep(r, Kept("m"))
    async with r:
        await reach(r, "m", ModelState.LOADING)
        assert file_of(r).read() == [Kept("m", trying=True)]
        await r.router.drain(5)
        assert file_of(r).read() == [Kept("m")], "it was stopped, and is not to blame"


async def test_where_a_try_cannot_be_marked_none_is_made(rig: Make) -> None:
    r = rig()
    r.install("m")
    keep(r, Kept("m"))
    r.store.layout.tmp.rename(r.store.home / "moved")
    async with r:
        await asyncio.sleep(0.5)
        assert r.router.status("m").state is ModelState.ABSENT
        r.store.layout.tmp.mkdir()
        await r.answer("m")


async def test_what_is_not_installed_any_more_is_passed_over(rig: Make) -> None:
    r = rig()
    r.install("m")
    keep(r, Kept("gone"), Kept("m"), Kept("m@000000000000"))
    async with r:
        await outcome(r, "m", "ready")


async def test_an_unload_before_its_turn_counts(rig: Make) -> None:
    r = rig()
    r.install("first", load_s=2)
    r.install("second")
    keep(r, Kept("first"), Kept("second"))
    async with r:
        await reach(r, "first", ModelState.LOADING)
        await r.router.unload("second")
        await outcome(r, "first", "ready")
        await asyncio.sleep(0.3)
        assert r.router.status("second").state is ModelState.ABSENT


async def test_nothing_comes_back_where_it_is_off_nor_later(rig: Make, tmp_path: Path) -> None:
    r = rig(reload_models=False)
    r.install("m")
    keep(r, Kept("m"))
    async with r:
        await asyncio.sleep(0.3)
        assert r.router.status("m").state is ModelState.ABSENT
        await r.answer("m")
        await r.router.drain(5)
    assert not (r.store.home / LOADED_FILE).exists()


@pytest.mark.parametrize("reload_models", [True, False])
@pytest.mark.parametrize("way", ["temporary", "second"])
async def test_a_daemon_beside_the_operators_leaves_alone_what_that_one_keeps(
    tmp_path: Path, way: str, reload_models: bool,
) -> None:
    """Else it would load all of it a second time, and forget it at its end."""
    first = Rig(tmp_path)
    first.install("m")
    first.install("other")
    async with first:
        await first.answer("m")
        await keeps(first, "m")
        async with Rig(tmp_path, remembers=way == "second", reload_models=reload_models) as beside:
            await beside.answer("other")
            assert beside.router.status("m").state is ModelState.ABSENT
            await beside.router.drain(5)
        assert kept(first) == ["m"]
    async with Rig(tmp_path) as third:
        await outcome(third, "m", "ready")


async def test_a_model_that_was_loaded_by_its_name_comes_back_by_its_name(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    old = first.install("m")
    async with first:
        await first.router.load("m")
        await first.router.drain(5)
    assert kept(first) == ["m"]
    new = first.install("m")
    assert new.version != old.version
    async with Rig(tmp_path) as second:
        await reach(second, f"m@{new.version}", ModelState.READY)
        assert second.router.status(f"m@{old.version}").state is ModelState.ABSENT


async def test_a_load_of_a_name_waits_for_the_version_that_comes_and_its_pin_goes_over(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        await r.answer("m")
        new = r.install("m", load_s=0.3)
        loaded = await r.router.load("m", pin=True)
        assert (loaded.version, loaded.state) == (new.version, ModelState.READY)
        await r.answer("m")
        assert r.router.status("m").pinned


class SlowDisk:
    """Of one rig: what is written with a sync waits until it is let go."""

    def __init__(self, r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writing, self.go = threading.Event(), threading.Event()
        file = r.router._reloads._file
        write = file.write

        def slow(kept: list[Kept], *, durable: bool) -> None:
            if durable:
                self.writing.set()
                assert self.go.wait(20)
            write(kept, durable=durable)

        monkeypatch.setattr(file, "write", slow)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.writing.wait, 20)


async def test_an_unload_while_the_disk_takes_the_mark_counts(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    r = rig()
    r.install("m")
    r.install("next")
    keep(r, Kept("m"), Kept("next"))
    disk = SlowDisk(r, monkeypatch)
    async with r:
        await disk.reached()
        await r.router.unload("m")
        disk.go.set()
        await outcome(r, "next", "ready")
        assert r.router.status("m").state is ModelState.ABSENT
        assert r.metric("edged_model_reloads_total", model="m", outcome="gave_way") == 1
        await keeps(r, "next")


async def test_who_comes_while_the_disk_takes_the_mark_goes_first(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    r = rig(memory_bytes=150 * MIB)
    install(r, "back")
    install(r, "wanted", load_s=0.3)
    keep(r, Kept("back"))
    disk = SlowDisk(r, monkeypatch)
    async with r:
        await disk.reached()
        answering = asyncio.create_task(r.answer("wanted"))
        await reach(r, "wanted", ModelState.LOADING)
        disk.go.set()
        await answering
        await outcome(r, "back", "no_room")
        assert r.router.status("wanted").state is ModelState.READY


@pytest.mark.parametrize("force", [True, False])
async def test_an_unload_of_what_is_coming_back_lets_the_others_come(rig: Make, force: bool) -> None:
    r = rig()
    first, second = r.install("a", load_s=3), r.install("b")
    keep(r, Kept("a"), Kept("b"))
    async with r:
        await reach(r, first.name, ModelState.LOADING)
        await r.router.unload(first.name, force=force)
        await outcome(r, first.name, "gave_way")
        await outcome(r, second.name, "ready")
        await keeps(r, "b")


async def test_the_file_soon_forgets_what_was_unloaded(rig: Make) -> None:
    """A power cut in the same minute would else bring it back."""
    async with rig() as r:
        r.install("m")
        r.install("other")
        await r.answer("m")
        await r.answer("other")
        await r.router.unload("other")
        await keeps(r, "m")
        await r.router.unload("m")
        await keeps(r)


async def test_what_came_back_and_nobody_has_asked_for_is_the_first_to_go(rig: Make) -> None:
    r = rig()
    r.install("m")
    keep(r, Kept("m"))
    async with r:
        await outcome(r, "m", "ready")
        model = r.router._meant("m")
        assert (live := model.live()) is not None
        assert live.used == 0.0
        await r.answer("m")
        assert (live := model.live()) is not None
        assert live.used > 0.0
