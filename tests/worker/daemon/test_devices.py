"""Where a version is served, and what happens when its device lies, is lacking or goes away. The fake engine has a
device `cuda` for models that were built for it; the machine says whether it has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edged.daemon import placing
from edged.daemon.router import ModelState
from edged.errors import DeviceUnavailable, WorkerDied
from edged.hardware.facts import Gpu
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import FILE, Measured, Speed, Verdict
from edged.store.entries import Manifest
from tests.worker.daemon.rig import PLAIN, Rig, Stopwatch, collect
from tests.worker.daemon.test_deaths import read_tokens
from tests.worker.daemon.test_serving import until

pytestmark = pytest.mark.worker

Make = Callable[..., Rig]

WITH_CARD = replace(PLAIN, gpus=(Gpu(vendor="nvidia", name="RTX 3060", memory_bytes=12 << 30, driver="550"),))
SPEED = Speed(prefill=1000, decode=100, decode_many=400, streams=8, threads=2, device="cpu", engine_version="fake-1",
              taken=0)


def proved(r: Rig, manifest: Manifest, *, cuda: float = 900, cpu: float = 100) -> None:
    """As if its first load had been before; tokens/s on each."""
    measured = Measured(r.store.home, fingerprint(WITH_CARD))
    for provider, decode in (("cuda", cuda), ("cpu", cpu)):
        measured.record(manifest.digest, provider, speed=replace(SPEED, decode=decode),
                        verdict=Verdict(passed=True, reason="as before"))


@pytest.fixture(autouse=True)
def _brief_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "SECONDS", 0.1)


async def test_what_is_required_and_not_here_never_answers(rig: Make) -> None:
    async with rig(catalog='[models.m]\nrequire = "cuda"\nfall_back = true\n') as r:
        r.install("m", target="cuda")
        for ask in (r.generate("m"), r.router.load("m")):
            with pytest.raises(DeviceUnavailable, match=r"on cuda: needs an NVIDIA device, and there is none here"):
                await ask
        status = r.router.status("m")
        assert (status.state, status.device) == (ModelState.ABSENT, None)
        assert "cuda is required" in str(status.error)
        assert r.metric("edged_model_load_seconds_count", model="m") == 0


async def test_what_is_required_does_not_run_a_form_for_another_device(rig: Make) -> None:
    async with rig(catalog='[models.m]\nrequire = "cuda"\n', facts=WITH_CARD) as r:
        r.install("m")
        with pytest.raises(DeviceUnavailable, match="runs on cpu, and cuda is required"):
            await r.generate("m")


async def test_a_required_device_serves_once_it_is_proved_and_is_attested(rig: Make) -> None:
    async with rig(catalog='[models.m]\nrequire = "cuda"\n', facts=WITH_CARD) as r:
        manifest = r.install("m", target="cuda")
        generation = await r.generate("m", tokens=3)
        assert generation.served.device == "cuda (fake)"
        await collect(generation)
        assert r.router.status("m").device == "cuda (fake)"
        verdict = Measured(r.store.home, fingerprint(WITH_CARD)).get(manifest.digest, "cuda").verdict
        assert verdict is not None
        assert verdict.passed
        assert verdict.positions > 50
        r.router.status("m")
        labels = {"version": manifest.version, "engine": "fake", "device": "cuda (fake)", "precision": "fake"}
        assert r.metric("edged_model_info", model="m", **labels) == 1


async def test_a_proof_is_made_once_and_kept(rig: Make) -> None:
    async with rig(catalog='[models.m]\nrequire = "cuda"\n', facts=WITH_CARD) as r:
        r.install("m", target="cuda")
        await r.router.load("m")
        before = (r.store.home / FILE).stat().st_mtime_ns
        await r.router.unload("m")
        await r.router.load("m")
        assert (r.store.home / FILE).stat().st_mtime_ns == before


async def test_a_device_that_answers_wrongly_is_refused_where_it_is_required(rig: Make) -> None:
    async with rig(catalog='[models.m]\nrequire = "cuda"\n', facts=WITH_CARD) as r:
        r.install("m", target="cuda", noise=10)
        with pytest.raises(DeviceUnavailable, match=r"cuda answers wrongly: the same best token at \d+% of positions"):
            await r.generate("m")
        assert r.router.status("m").state is ModelState.ABSENT


async def test_a_device_that_answers_wrongly_is_passed_over_for_the_processor(rig: Make) -> None:
    async with rig(facts=WITH_CARD) as r:
        r.install("m", target="cuda", noise=10)
        generation = await r.generate("m", tokens=3)
        assert generation.served.device == "cpu"
        assert "cuda answers wrongly" in str(r.router.status("m").reason)
        await generation.cancel()


@pytest.mark.parametrize(("device_ms", "device"), [(0.1, "cuda (fake)"), (1.0, "cpu")])
async def test_of_two_devices_the_one_that_is_faster_here_serves(rig: Make, device_ms: float, device: str) -> None:
    async with rig(facts=WITH_CARD) as r:
        r.install("m", target="cuda", token_ms=0.3, device_token_ms=device_ms)
        status = await r.router.load("m")
        assert status.device == device
        assert str(status.reason).startswith("measured here: ")
        assert " tokens/s at one stream" in str(status.reason)


@pytest.mark.parametrize(("said", "fault"), [("crash_on_load", "SIGSEGV|signal 11"), ("refuse", "no such kernel")])
async def test_a_device_that_cannot_run_it_is_told_with_the_reason(rig: Make, said: str, fault: str) -> None:
    knobs: dict[str, Any] = {"crash_on_load": True} if said == "crash_on_load" else {"refuse": "no such kernel"}
    async with rig(catalog='[models.m]\nrequire = "cuda"\n', facts=WITH_CARD) as r:
        r.install("m", target="cuda", **knobs)
        with pytest.raises(DeviceUnavailable, match=f"cuda cannot run it here: .*({fault})"):
            await r.router.load("m")


async def test_an_engine_that_runs_it_elsewhere_than_it_was_told_to_does_not_serve(rig: Make) -> None:
    """Caught before it serves by its trial; and by what the worker itself attests, had the trial been passed."""
    async with rig(catalog='[models.m]\nrequire = "cuda"\n[models.n]\nrequire = "cuda"\n', facts=WITH_CARD) as r:
        r.install("m", target="cuda", device="cpu")
        with pytest.raises(DeviceUnavailable, match="told to run on cuda, it ran on cpu"):
            await r.generate("m")
        proved(r, r.install("n", target="cuda", device="cpu"))
        with pytest.raises(DeviceUnavailable, match="was to run on cuda and runs on cpu, so it does not serve"):
            await r.generate("n")
        await until(lambda: r.router.status("n").state is ModelState.ABSENT)


async def test_a_stop_ends_a_trial_at_once(rig: Make) -> None:
    async with rig(facts=WITH_CARD) as r:
        r.install("m", target="cuda", load_s=30)
        loading = asyncio.create_task(r.router.load("m"))
        await asyncio.sleep(1.0)
        watch = Stopwatch()
        await r.router.unload("m", force=True)
        assert watch.seconds < 5
        assert r.router.status("m").state is ModelState.ABSENT
        await asyncio.wait({loading})
        assert loading.exception() is not None


async def test_a_lost_device_fails_closed_and_says_so(rig: Make) -> None:
    async with rig(facts=WITH_CARD) as r:
        proved(r, r.install("m", target="cuda", step_ms=2, lost_at_token=6))
        generation = await r.generate("m", tokens=None)
        assert generation.served.device == "cuda (fake)"
        await read_tokens(generation, 4)
        with pytest.raises(DeviceUnavailable, match=r"the device of m was lost: .*told to go away"):
            await collect(generation)
        await until(lambda: r.router.status("m").state is ModelState.DEVICE_LOST)
        status = r.router.status("m")
        assert (status.device, status.running) == (None, 0)
        assert "was lost" in str(status.error)
        assert r.metric("edged_device_lost_total", model="m") == 1
        # The card fell off its bus: the processor could run it, and does not.
        r.facts = PLAIN
        with pytest.raises(DeviceUnavailable, match="needs an NVIDIA device, and there is none here"):
            await r.generate("m")
        assert r.router.status("m").state is ModelState.DEVICE_LOST
        # It is back: the next request is answered by it.
        r.facts = WITH_CARD
        again = await r.generate("m", tokens=3)
        assert again.served.device == "cuda (fake)"
        await collect(again)
        assert r.router.status("m").state is ModelState.READY


async def test_a_lost_device_may_be_replaced_by_the_processor_where_the_catalog_says_so(rig: Make) -> None:
    async with rig(catalog="[models.m]\nfall_back = true\n", facts=WITH_CARD) as r:
        proved(r, r.install("m", target="cuda", step_ms=2, lost_at_token=6))
        generation = await r.generate("m", tokens=None)
        with pytest.raises(WorkerDied, match="goes on without cuda, on the processor: send the request again"):
            await collect(generation)
        again = await r.generate("m", tokens=20)
        assert again.served.device == "cpu"
        await collect(again)
        status = r.router.status("m")
        assert (status.state, status.device) == (ModelState.READY, "cpu")
        assert status.reason == ("cuda was lost (its device was lost: the fake device was told to go away at this "
                                 "token), and the catalog lets it fall back to the processor")
        assert r.metric("edged_device_lost_total", model="m") == 1
        # An operator makes the choice free again.
        await r.router.unload("m")
        assert (await r.router.load("m")).device == "cuda (fake)"


async def test_a_required_device_that_is_lost_is_not_replaced_whatever_falls_back(rig: Make) -> None:
    async with rig(catalog='[models.m]\nrequire = "cuda"\nfall_back = true\n', facts=WITH_CARD) as r:
        proved(r, r.install("m", target="cuda", step_ms=2, lost_at_token=3))
        with pytest.raises(DeviceUnavailable, match="was lost"):
            await collect(await r.generate("m", tokens=None))
        r.facts = PLAIN
        with pytest.raises(DeviceUnavailable, match="none here"):
            await r.generate("m")


async def test_an_operators_load_after_a_loss_takes_what_is_there(rig: Make) -> None:
    async with rig(facts=WITH_CARD) as r:
        proved(r, r.install("m", target="cuda", step_ms=2, lost_at_token=3))
        with pytest.raises(DeviceUnavailable):
            await collect(await r.generate("m", tokens=None))
        r.facts = PLAIN
        status = await r.router.load("m")
        assert (status.state, status.device) == (ModelState.READY, "cpu")


async def test_a_worker_killed_on_a_device_does_not_come_back_on_another(rig: Make) -> None:
    """A driver that goes away often takes the process with it."""
    async with rig(facts=WITH_CARD) as r:
        proved(r, r.install("m", target="cuda", step_ms=2, crash_at_token=3))
        with pytest.raises(WorkerDied):
            await collect(await r.generate("m", tokens=None))
        r.facts = PLAIN
        with pytest.raises(DeviceUnavailable, match="none here"):
            await r.generate("m")


async def test_a_trial_does_not_outlive_the_one_that_asked(tmp_path: Path) -> None:
    from edged.daemon.process import TRIAL_COMMAND

    process = await asyncio.create_subprocess_exec(
        *TRIAL_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    (tmp_path / "fake.json").write_text('{"hang_on_load": true}')
    assert process.stdin is not None
    spec = {"name": "m", "version": "0" * 12, "digest": "0" * 64, "engine": "fake", "path": str(tmp_path),
            "file": "fake.json"}
    import msgspec

    process.stdin.write(msgspec.json.encode({"spec": spec}) + b"\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 1.5)
    process.stdin.close()
    await asyncio.wait_for(process.wait(), 5)
