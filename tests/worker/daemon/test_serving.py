"""What a caller of the router sees: answers, waiting, limits, sharing of memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
import pytest

from edged.daemon.generation import HIGH_MARK
from edged.daemon.router import ModelState
from edged.errors import (
    ConfigError,
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    ModelUnavailable,
    QueueFull,
    ShuttingDown,
)
from edged.types import Started
from tests.worker.daemon.rig import Rig, Stopwatch, answer, collect

pytestmark = pytest.mark.worker

Make = Callable[..., Rig]


async def test_first_request_loads_and_answers(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        assert r.router.status("m").state is ModelState.ABSENT
        generation = await r.generate("m", tokens=3)
        assert generation.served.device == "cpu"
        first = answer(await collect(generation))
        assert first.tokens == 3
        assert first.text
        status = r.router.status("m")
        assert (status.state, status.running, status.waiting) == (ModelState.READY, 0, 0)
        assert status.idle_s is not None


async def test_what_a_model_takes_is_told_with_its_process_for_templates(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        await r.answer("m")
        worker = psutil.Process(r.pid("m"))
        (templates,) = worker.children()
        alone_bytes, beside_bytes = worker.memory_info().rss, templates.memory_info().rss
        assert beside_bytes > 4 << 20
        assert r.router.status("m").resident_bytes == pytest.approx(alone_bytes + beside_bytes, rel=0.1)


async def test_requests_that_wait_for_one_load_share_it(rig: Make) -> None:
    async with rig() as r:
        r.install("m", load_s=0.3)
        texts = await asyncio.gather(*(r.answer("m", f"q{number}") for number in range(10)))
        assert len(texts) == 10
        assert r.metric("edged_model_load_seconds_count", model="m") == 1


async def test_streams_of_one_model_run_together(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=20)
        await r.router.load("m")
        watch = Stopwatch()
        await asyncio.gather(*(r.answer("m", tokens=20) for _ in range(8)))
        assert watch.seconds < 8 * 20 * 0.020 / 2


async def test_queue_full_tells_when_to_come_again(rig: Make) -> None:
    async with rig(max_queue=2) as r:
        r.install("m", step_ms=50, rows=1)
        await r.answer("m", tokens=2)
        running = [await r.generate("m", tokens=None) for _ in range(3)]
        with pytest.raises(QueueFull) as caught:
            await r.generate("m")
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s >= 1
        await running[0].cancel()
        await (await r.generate("m", tokens=None)).cancel()


async def test_cancelled_request_ends_and_frees_its_row(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=10)
        generation = await r.generate("m", tokens=None)
        assert isinstance(await anext(generation), Started)
        await generation.cancel()
        await generation.cancel()
        with pytest.raises(StopAsyncIteration):
            await anext(generation)
        assert r.router.status("m").running == 0
        assert (await r.answer("m", tokens=1)).tokens == 1


async def test_client_gone_while_loading_is_forgotten(rig: Make) -> None:
    async with rig() as r:
        r.install("m", load_s=0.4)
        waiting = asyncio.create_task(r.generate("m", tokens=None))
        await asyncio.sleep(0.1)
        assert r.router.status("m").waiting == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        status = await r.router.load("m")
        assert (status.state, status.running, status.waiting) == (ModelState.READY, 0, 0)


async def test_slow_reader_pauses_only_itself(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        whole = await r.answer("m", tokens=1500)
        slow = await r.generate("m", tokens=1500)
        events = [await anext(slow)]
        for number in range(4):
            assert (await r.answer("m", f"beside {number}", tokens=300)).tokens == 300
        held = len(slow._events)
        assert held < 2 * HIGH_MARK
        assert (await r.answer("m", "beside", tokens=300)).tokens == 300
        assert len(slow._events) == held
        assert answer(events + await collect(slow)) == whole


async def test_refused_load_is_told_to_all_who_wait(rig: Make) -> None:
    async with rig() as r:
        r.install("m", load_s=0.2, refuse="weights.bin is cut short; pull the model again")
        results = await asyncio.gather(r.generate("m"), r.generate("m"), r.router.load("m"), return_exceptions=True)
        assert [type(result) for result in results] == [LoadFailed] * 3
        assert "weights.bin is cut short" in str(results[0])
        assert r.router.status("m").error == "weights.bin is cut short; pull the model again"


async def test_two_models_that_do_not_fit_together_take_turns(rig: Make) -> None:
    async with rig() as alone:
        alone.install("a")
        resident_bytes = (await alone.router.load("a")).resident_bytes
        await alone.answer("a")
        resident_bytes = max(resident_bytes, alone.router.status("a").resident_bytes)
    assert resident_bytes > 1 << 20
    async with rig(memory_bytes=int(resident_bytes * 1.5)) as r:
        for name in ("a", "b"):
            manifest = r.install(name, step_ms=5)
            r.router._site.footprints.record(manifest.digest, resident_bytes)
        stop = asyncio.Event()
        done = {"a": 0, "b": 0}

        async def client(name: str) -> None:
            while not stop.is_set():
                await r.answer(name, tokens=5)
                done[name] += 1
                both = [r.router.status(one).state for one in ("a", "b")]
                assert both != [ModelState.READY, ModelState.READY]

        clients = [asyncio.create_task(client(name)) for name in ("a", "a", "b", "b")]
        await asyncio.sleep(6)
        stop.set()
        await asyncio.gather(*clients)
        assert min(done.values()) >= 2
        loads = [r.metric("edged_model_load_seconds_count", model=name) for name in ("a", "b")]
        assert abs(loads[0] - loads[1]) <= 1


async def test_model_that_can_never_fit_is_refused_with_need_and_free(rig: Make) -> None:
    async with rig(memory_bytes=1 << 20) as r:
        r.install("m")
        with pytest.raises(InsufficientMemory, match=r"needs about \d+ MiB .* 1 MiB can be had"):
            await r.generate("m")


async def test_engine_that_wants_more_memory_gets_all_there_is_before_it_is_refused(rig: Make) -> None:
    async with rig() as r:
        r.install("idle")
        r.install("m", refuse_memory=True)
        await r.router.load("idle")
        with pytest.raises(InsufficientMemory, match="told not to fit"):
            await r.generate("m")
        assert r.router.status("idle").state is ModelState.ABSENT


async def test_keep_alive_unloads_and_pin_stays(rig: Make) -> None:
    catalog = "[models.stays]\npin = true\n[models.goes]\nkeep_alive_s = 0.2\n"
    async with rig(catalog=catalog) as r:
        r.install("stays")
        r.install("goes")
        await r.router.reload()
        await r.answer("goes")
        assert r.router.status("goes").state is ModelState.READY
        await until(lambda: r.router.status("goes").state is ModelState.ABSENT)
        await until(lambda: r.router.status("stays").state is ModelState.READY)
        await r.router.load("stays", keep_alive_s=0.05)
        await asyncio.sleep(0.3)
        assert r.router.status("stays").state is ModelState.READY
        assert r.router.status("stays").pinned


async def test_unload_waits_for_running_requests_and_force_does_not(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=20)
        generation = await r.generate("m", tokens=20)
        reading = asyncio.create_task(collect(generation))
        status = await r.router.unload("m")
        assert status.state is ModelState.ABSENT
        assert answer(await reading).tokens == 20
        endless = await r.generate("m", tokens=None)
        await r.router.unload("m", force=True)
        with pytest.raises(ModelUnavailable, match="was unloaded"):
            await collect(endless)


async def test_drain_lets_streams_end_and_refuses_new_ones(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=20)
        r.install("slow_to_load", load_s=30)
        reading = asyncio.create_task(collect(await r.generate("m", tokens=20)))
        unloaded = asyncio.create_task(r.generate("slow_to_load"))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(r.router.drain(10))
        await asyncio.sleep(0.05)
        assert not r.router.ready
        for refused in (r.generate("m"), unloaded):
            with pytest.raises(ShuttingDown) as caught:
                await refused
            assert caught.value.retry_after_s is not None
        assert answer(await reading).tokens == 20
        await draining


async def test_drain_ends_what_is_left_at_the_deadline(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=20, ignore_sigterm=True)
        generation = await r.generate("m", tokens=None)
        watch = Stopwatch()
        await r.router.drain(0.3)
        assert watch.seconds < 8
        with pytest.raises(ShuttingDown):
            await collect(generation)


async def test_reloaded_catalog_applies_at_the_next_load_and_bad_one_changes_nothing(rig: Make) -> None:
    async with rig() as r:
        r.install("m", rows=8)
        assert (await r.router.load("m")).rows == 8
        r.models_file.write_text('[models.m]\noptions = { rows = 3 }\n[aliases]\n"gpt-4o-mini" = "m"\n')
        assert await r.router.reload() == ["gpt-4o-mini", "m"]
        assert r.router.status("m").rows == 8
        assert (await r.answer("gpt-4o-mini", tokens=1)).tokens == 1
        await r.router.unload("m")
        assert (await r.router.load("m")).rows == 3
        r.models_file.write_text("[models.m\n")
        with pytest.raises(ConfigError, match=r"models\.toml:1"):
            await r.router.reload()
        status = r.router.status("gpt-4o-mini")
        assert (status.name, status.alias_of) == ("gpt-4o-mini", "m")


async def test_unknown_names_say_what_to_do(rig: Make) -> None:
    async with rig(catalog='[models.smollm]\n') as r:
        manifest = r.install("tiny-model")
        for said, hint in [
            ("smollm", "`edged pull smollm`"), ("tiny-modle", "did you mean 'tiny-model'"),
            ("gpt-5", r'"gpt-5" = "tiny-model"'), ("tiny-model@0123456789ab", f"here are {manifest.version}"),
        ]:
            with pytest.raises(ModelNotFound, match=hint):
                r.router.status(said)
        assert r.router.status(f"tiny-model@{manifest.version}").name == "tiny-model"
        assert [status.name for status in r.router.models()] == ["tiny-model"]


async def until(reached: Callable[[], bool], *, within_s: float = 15.0) -> None:
    watch = Stopwatch()
    while not reached():
        assert watch.seconds < within_s, "it did not happen in time"
        await asyncio.sleep(0.01)
