"""One version of a model after another, under load: nothing is dropped, and each request is answered by one version."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from edged.daemon.router import ModelState
from edged.errors import Conflict, InsufficientMemory, InsufficientStorage, InvalidRequest, LoadFailed
from edged.store import Manifest, files
from edged.store.files import Operation
from tests.worker.daemon.rig import Rig, Stopwatch, answer, collect
from tests.worker.daemon.test_serving import until

pytestmark = pytest.mark.worker

Make = Callable[..., Rig]
TOKENS = 12
#: Its answers end after two words.
TERSE = {"end_chance": 1}


class Answered(NamedTuple):
    """number: in the order in which the requests were sent."""

    version: str
    text: str
    number: int


class Load:
    """Clients of one name that send one request after another."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._rig, self._name = rig, name
        self.answers: list[Answered] = []
        self.sent = 0
        self._over = False

    async def client(self) -> None:
        while not self._over:
            number, self.sent = self.sent, self.sent + 1
            generation = await self._rig.generate(self._name, tokens=TOKENS)
            version = generation.served.version
            self.answers.append(Answered(version, answer(await collect(generation)).text, number))

    def end(self) -> None:
        self._over = True

    def by_version(self) -> Counter[str]:
        return Counter(each.version for each in self.answers)


@asynccontextmanager
async def loaded(rig: Rig, name: str, clients: int = 4) -> AsyncIterator[Load]:
    """Raises what any client got."""
    load = Load(rig, name)
    running = [asyncio.create_task(load.client()) for _ in range(clients)]
    await until(lambda: len(load.answers) >= clients)
    try:
        yield load
        count = len(load.answers)
        await until(lambda: len(load.answers) >= count + 2 * clients)
    finally:
        load.end()
        await asyncio.gather(*running)


async def texts(rig: Rig, *manifests: Manifest) -> dict[str, str]:
    """By version, what each answers when it is named."""
    return {manifest.version: (await rig.answer(f"{manifest.name}@{manifest.version}", tokens=TOKENS)).text
            for manifest in manifests}


def state(rig: Rig, manifest: Manifest) -> ModelState:
    return rig.router.status(f"{manifest.name}@{manifest.version}").state


async def test_switching_under_load_drops_nothing_and_each_answer_is_of_one_version(rig: Make) -> None:
    async with rig() as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, step_ms=2, load_s=0.4, **TERSE)
        async with loaded(r, "m") as load:
            stream = await r.generate("m", "long", tokens=400)
            before = len(load.answers)
            status = await r.router.activate(f"m@{new.version[:4]}")
            assert (status.version, status.state) == (new.version, ModelState.READY)
            assert r.store.active("m") == new.version
            assert len(load.answers) > before + 4
            switched = load.sent
            assert state(r, old) is ModelState.READY
            assert answer(await collect(stream)).tokens == 400
            assert stream.served.version == old.version
        assert {each.version for each in load.answers if each.number >= switched} == {new.version}
        # Nobody needs the old worker any more, and it goes though keep_alive_s is for ever.
        await until(lambda: state(r, old) is ModelState.ABSENT)
        expected = await texts(r, old, new)
        assert len(set(expected.values())) == 2
        assert {each.text for each in load.answers if each.version == old.version} == {expected[old.version]}
        assert {each.text for each in load.answers if each.version == new.version} == {expected[new.version]}
        assert [(each.version, each.by) for each in r.store.history("m")] == [
            (old.version, "pull"), (new.version, "activate")]


@pytest.mark.parametrize(("knobs", "reason"), [
    ({"refuse": "weights.bin is cut short"}, "weights.bin is cut short"),
    ({"crash_on_load": True}, "died while it loaded"),
])
async def test_a_version_that_cannot_be_loaded_is_refused_and_the_old_one_serves_on(
    rig: Make, knobs: dict[str, object], reason: str,
) -> None:
    async with rig() as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, **knobs)
        async with loaded(r, "m") as load:
            with pytest.raises(LoadFailed, match=reason) as caught:
                await r.router.activate(f"m@{new.version}")
            assert caught.value.status == 500
        assert r.store.active("m") == old.version
        assert set(load.by_version()) == {old.version}
        assert len(r.store.history("m")) == 1


async def test_a_version_that_does_not_fit_beside_the_old_one_waits_for_its_end_and_requests_wait_too(
    rig: Make,
) -> None:
    async with rig() as alone:
        alone.install("m")
        resident_bytes = (await alone.router.load("m")).resident_bytes
        await alone.answer("m")
        resident_bytes = max(resident_bytes, alone.router.status("m").resident_bytes)
    async with rig(memory_bytes=int(resident_bytes * 1.5)) as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, step_ms=2, load_s=0.3, **TERSE)
        for manifest in (old, new):
            r.router._site.footprints.record(manifest.digest, resident_bytes)
        async with loaded(r, "m") as load:
            await r.router.activate(f"m@{new.version}")
            assert state(r, old) is ModelState.ABSENT
        assert set(load.by_version()) == {old.version, new.version}
        assert r.metric("edged_model_load_seconds_count", model="m") == 2


async def test_a_version_whose_engine_wants_more_memory_than_there_is_costs_no_request(rig: Make) -> None:
    """It is given all that can be had, so the old one makes room, and comes back for those who wait."""
    async with rig() as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, refuse_memory=True)
        async with loaded(r, "m") as load:
            with pytest.raises(InsufficientMemory, match="told not to fit"):
                await r.router.activate(f"m@{new.version}")
        assert set(load.by_version()) == {old.version}
        assert r.store.active("m") == old.version


async def test_while_a_pulled_version_loads_the_old_one_answers(rig: Make) -> None:
    async with rig() as r:
        old = r.install("m", step_ms=2)
        async with loaded(r, "m") as load:
            new = r.install("m", step_ms=2, load_s=0.4, **TERSE)
            r.router.activated(new)
            watch = Stopwatch()
            slowest_s = 0.0
            while r.router.status("m").state is not ModelState.READY:
                one = Stopwatch()
                await r.answer("m", tokens=2)
                slowest_s = max(slowest_s, one.seconds)
            assert slowest_s < watch.seconds / 2
        assert set(load.by_version()) == {old.version, new.version}
        await until(lambda: state(r, old) is ModelState.ABSENT)


async def test_a_pointer_that_another_process_moves_is_seen_with_the_next_request(rig: Make) -> None:
    async with rig() as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, step_ms=2, load_s=0.2, **TERSE)
        async with loaded(r, "m") as load:
            r.store.activate("m", new.version)
            await until(lambda: load.by_version()[new.version] > 0)
            r.store.rollback("m")
            await until(lambda: load.answers[-1].version == old.version)
        assert set(load.by_version()) == {old.version, new.version}


async def test_a_pulled_version_that_cannot_be_loaded_leaves_the_old_one_answering(rig: Make) -> None:
    async with rig() as r:
        old = r.install("m", step_ms=2)
        async with loaded(r, "m") as load:
            new = r.install("m", refuse="weights.bin is cut short")
            r.router.activated(new)
            await until(lambda: r.router.status("m").error is not None)
            assert r.router.status("m").error == "weights.bin is cut short"
            assert r.store.active("m") == new.version
        assert set(load.by_version()) == {old.version}
        assert (await r.router.rollback("m")).version == old.version
        assert (await r.answer("m")).tokens == 8


async def test_the_pin_goes_over_to_the_new_version(rig: Make) -> None:
    async with rig(catalog="[models.m]\npin = true\n", keep_alive_s=0) as r:
        old, new = r.install("m"), r.install("m", activate=False)
        await r.router.reload()
        await until(lambda: state(r, old) is ModelState.READY)
        await r.answer(f"m@{new.version}")
        await until(lambda: state(r, new) is ModelState.ABSENT)
        status = await r.router.activate(f"m@{new.version}")
        assert status.pinned
        assert not r.router.status(f"m@{old.version}").pinned
        await until(lambda: state(r, old) is ModelState.ABSENT)
        assert state(r, new) is ModelState.READY


async def test_what_an_operator_said_of_the_old_version_holds_for_the_new_one(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        new = r.install("m", activate=False)
        await r.router.load("m", keep_alive_s=1234, pin=True)
        status = await r.router.activate(f"m@{new.version}")
        assert (status.pinned, status.keep_alive_s) == (True, 1234)


async def test_rolling_back_walks_back_and_says_when_there_is_nothing_left(rig: Make) -> None:
    async with rig() as r:
        versions = [r.install("m") for _ in range(3)]
        async with loaded(r, "m"):
            for manifest in reversed(versions[:-1]):
                assert (await r.router.rollback("m")).version == manifest.version
            with pytest.raises(Conflict, match="was active before"):
                await r.router.rollback("m")


async def test_requests_that_name_a_version_are_answered_by_it_before_and_after_a_switch(rig: Make) -> None:
    async with rig(keep_alive_s=0.2) as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, **TERSE)
        async with loaded(r, f"m@{old.version[:6]}") as load:
            await r.router.activate(f"m@{new.version}")
            assert (await r.generate("m")).served.version == new.version
        assert set(load.by_version()) == {old.version}


async def test_two_changes_at_once_are_one_and_a_clear_refusal(rig: Make) -> None:
    async with rig() as r:
        old, new, newer = r.install("m"), *(r.install("m", activate=False, load_s=0.3) for _ in range(2))
        await r.answer("m")
        first = asyncio.create_task(r.router.activate(f"m@{new.version}"))
        await asyncio.sleep(0.05)
        with pytest.raises(Conflict, match="being changed"):
            await r.router.activate(f"m@{newer.version}")
        assert (await first).version == new.version
        assert old.version != r.store.active("m") == new.version


async def test_a_pointer_that_cannot_be_written_leaves_the_old_version_answering(
    rig: Make, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(operation: Operation) -> None:
        if operation.kind == "rename":
            raise OSError(errno.ENOSPC, "No space left on device")

    async with rig() as r:
        old, new = r.install("m", step_ms=2), r.install("m", activate=False, step_ms=2)
        async with loaded(r, "m") as load:
            with monkeypatch.context() as patched:
                patched.setattr(files, "watch", full)
                with pytest.raises(InsufficientStorage, match="all serves as before"):
                    await r.router.activate(f"m@{new.version}")
            count = load.sent
            await until(lambda: len([each for each in load.answers if each.number >= count]) > 4)
            assert {each.version for each in load.answers if each.number >= count} == {old.version}
        assert r.store.active("m") == old.version
        await until(lambda: state(r, new) is ModelState.ABSENT)


async def test_a_change_to_no_version_is_told(rig: Make) -> None:
    async with rig() as r:
        manifest = r.install("m")
        with pytest.raises(InvalidRequest, match=f"say which version of m, as in m@{manifest.version}"):
            await r.router.activate("m")
