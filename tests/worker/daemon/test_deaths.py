"""Workers that crash, hang and refuse to go: R2 and R6 of PROMISES.md, seen from the router."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import psutil
import pytest

from edged.daemon.breaker import Breaker
from edged.daemon.router import Generation, ModelState
from edged.errors import LoadFailed, ModelUnavailable, SuspectRequest, WorkerDied
from edged.types import Delta
from tests.worker.daemon.rig import Rig, Stopwatch, answer, collect
from tests.worker.daemon.test_serving import until

pytestmark = pytest.mark.worker

Make = Callable[..., Rig]


async def read_tokens(generation: Generation, count: int) -> None:
    while count > 0:
        event = await anext(generation)
        count -= event.tokens if isinstance(event, Delta) else 0


async def test_killed_worker_again_and_again_beside_a_model_that_does_not_notice(rig: Make) -> None:
    async with rig(breaker=lambda: Breaker(first_s=0.01)) as r:
        r.install("victim", step_ms=2)
        r.install("beside", step_ms=2)
        beside = await r.generate("beside", "beside", tokens=None)
        counted = 0

        async def count() -> None:
            nonlocal counted
            async for event in beside:
                counted += event.tokens if isinstance(event, Delta) else 0

        counting = asyncio.create_task(count())
        pid = r.pid("beside")
        for number in range(6):
            generation = await r.generate("victim", f"q{number}", tokens=None)
            await read_tokens(generation, 5)
            before = counted
            os.kill(r.pid("victim"), signal.SIGKILL)
            with pytest.raises(WorkerDied, match=r"died while it answered.*SIGKILL.*send the request again"):
                await collect(generation)
            assert await r.answer("victim", f"after {number}", tokens=2)
            assert counted > before
        assert r.pid("beside") == pid
        assert r.router.status("victim").restarts == 6
        assert r.metric("edged_worker_restarts_total", model="victim") == 6
        assert r.router.status("beside").restarts == 0
        await beside.cancel()
        await counting


async def test_requests_that_only_waited_go_on_to_the_fresh_worker(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=5)
        await r.router.load("m")
        os.kill(r.pid("m"), signal.SIGSTOP)
        waiting = [await r.generate("m", f"q{number}", tokens=3) for number in range(4)]
        os.kill(r.pid("m"), signal.SIGKILL)
        for generation in waiting:
            assert await collect(generation)
        assert r.router.status("m").restarts == 1


async def test_request_that_ran_in_two_deaths_is_refused_and_others_are_not(rig: Make) -> None:
    async with rig() as r:
        r.install("m", crash_on_text="poison")
        for _ in range(2):
            with pytest.raises(WorkerDied) as caught:
                await collect(await r.generate("m", "the poison"))
            assert not isinstance(caught.value, SuspectRequest)
        with pytest.raises(SuspectRequest, match="both times") as caught:
            await r.generate("m", "the poison")
        assert (caught.value.status, caught.value.retry) == (502, False)
        assert await r.answer("m", "the cure")


async def test_hung_worker_is_killed_though_it_ignores_sigterm(rig: Make) -> None:
    async with rig(hang_timeout_s=0.5) as r:
        r.install("m", hang_at_token=3, ignore_sigterm=True)
        generation = await r.generate("m", "q", tokens=10)
        watch = Stopwatch()
        with pytest.raises(WorkerDied, match=r"no sign of life for 0\.5 s"):
            await collect(generation)
        assert watch.seconds < 3
        assert await r.answer("m", "another", tokens=2)


async def test_hung_worker_is_found_after_its_client_left(rig: Make) -> None:
    async with rig(hang_timeout_s=0.5) as r:
        r.install("m", hang_at_token=2)
        generation = await r.generate("m", "q", tokens=10)
        await read_tokens(generation, 2)
        await asyncio.sleep(0.1)
        await generation.cancel()
        await until(lambda: r.router.status("m").restarts == 1)


async def test_idle_and_paused_workers_are_left_alone(rig: Make) -> None:
    async with rig(hang_timeout_s=0.4) as r:
        r.install("m")
        unread = await r.generate("m", tokens=1500)
        await asyncio.sleep(1.2)
        assert r.router.status("m").restarts == 0
        assert answer(await collect(unread)).tokens == 1500
        await asyncio.sleep(0.8)
        assert r.router.status("m").restarts == 0


async def test_slow_load_is_left_alone_and_one_that_stands_still_is_not(rig: Make) -> None:
    async with rig(load_timeout_s=2.5) as r:
        r.install("slow", load_s=4)
        r.install("hung", hang_on_load=True)
        slow = asyncio.create_task(r.router.load("slow"))
        with pytest.raises(LoadFailed, match=r"no progress in loading for 2\.5 s"):
            await r.generate("hung")
        assert (await slow).state is ModelState.READY
        assert r.router.status("slow").restarts == 0


async def test_crash_while_loading_is_tried_again_and_then_the_breaker_opens(rig: Make) -> None:
    async with rig() as r:
        r.install("m", crash_on_load=True)
        with pytest.raises(ModelUnavailable, match=r"SIGSEGV.*`edged load m`"):
            await r.generate("m")
        assert r.router.status("m").state is ModelState.BROKEN
        assert r.router.status("m").restarts == 3
        watch = Stopwatch()
        with pytest.raises(ModelUnavailable):
            await r.generate("m")
        assert watch.seconds < 0.1
        r.models_file.write_text("[models.m]\noptions = { crash_on_load = false }\n")
        await r.router.reload()
        assert (await r.router.load("m")).state is ModelState.READY
        assert await r.answer("m")


async def test_back_off_grows_and_a_completed_request_resets_it(rig: Make) -> None:
    async with rig(breaker=lambda: Breaker(first_s=0.3, limit=3)) as r:
        r.install("m", step_ms=1)

        async def die(text: str) -> None:
            generation = await r.generate("m", text, tokens=None)
            await read_tokens(generation, 1)
            os.kill(r.pid("m"), signal.SIGKILL)
            with pytest.raises(WorkerDied):
                await collect(generation)

        await die("one")
        watch = Stopwatch()
        await die("two")
        assert watch.seconds >= 0.3
        watch = Stopwatch()
        assert await r.answer("m", "fine")
        assert watch.seconds >= 0.6
        await die("three")
        await die("four")
        assert await r.answer("m", "fine again")


async def test_pinned_model_comes_back_without_a_request(rig: Make) -> None:
    async with rig(catalog="[models.m]\npin = true\n") as r:
        r.install("m")
        await r.router.reload()
        await until(lambda: r.router.status("m").state is ModelState.READY)
        os.kill(r.pid("m"), signal.SIGKILL)
        await until(lambda: r.router.status("m").restarts == 1)
        await until(lambda: r.router.status("m").state is ModelState.READY)


async def test_stopping_leaves_no_process_and_no_lease(rig: Make) -> None:
    async with rig() as r:
        manifest = r.install("m", ignore_sigterm=True, hang_at_token=2)
        await read_tokens(await r.generate("m", "q"), 2)
        pid = r.pid("m")
        watch = Stopwatch()
        await r.router.kill()
        assert watch.seconds < 1.5
        assert not psutil.pid_exists(pid)
        r.store.remove("m", manifest.version)


async def test_worker_sees_no_secrets_of_the_daemon(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("EDGED_API_KEYS", "canary")
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    async with rig() as r:
        r.install("m")
        await r.router.load("m")
        environment = psutil.Process(r.pid("m")).environ()
        assert "canary" not in environment.values()
        assert environment["GOMP_SPINCOUNT"] == "1000"
        assert environment["PATH"] == os.environ["PATH"]
