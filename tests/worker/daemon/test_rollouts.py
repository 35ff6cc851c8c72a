"""A candidate that gets a share of a name's requests, and is taken back when it is worse."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from edged.daemon.breaker import Breaker
from edged.daemon.rollout import ENOUGH, Verdict
from edged.daemon.router import ModelState
from edged.errors import EdgedError, NotFound, WorkerDied
from edged.store import Manifest
from tests.worker.daemon.rig import Rig, collect
from tests.worker.daemon.test_serving import until
from tests.worker.daemon.test_succession import TERSE, state, texts

pytestmark = pytest.mark.worker

Make = Callable[..., Rig]


async def reload(rig: Rig, candidate: str, share: float) -> None:
    rig.models_file.write_text(f'[models.m]\ncandidate = "{candidate}"\nshare = {share}\n')
    await rig.router.reload()


async def answered(rig: Rig, name: str = "m", tokens: int = 4) -> str | None:
    """The version that did, None where the request failed."""
    try:
        generation = await rig.generate(name, tokens=tokens)
        await collect(generation)
    except EdgedError:
        return None
    return generation.served.version


async def counts(rig: Rig, number: int) -> Counter[str | None]:
    return Counter([await answered(rig) for _ in range(number)])


async def begun(rig: Rig, candidate: Manifest, share: float = 0.5) -> None:
    """With both versions loaded."""
    await rig.answer("m")
    await reload(rig, candidate.version[:4], share)


@pytest.mark.parametrize(("share", "number", "expected"), [(0.1, 30, 3), (0.25, 40, 10), (0.5, 20, 10)])
async def test_exactly_its_share_goes_to_the_candidate_and_answers_attest_it(
    rig: Make, share: float, number: int, expected: int,
) -> None:
    async with rig() as r:
        active, candidate = r.install("m"), r.install("m", activate=False, **TERSE)
        await begun(r, candidate, share)
        assert await counts(r, number) == {active.version: number - expected, candidate.version: expected}
        for manifest in (active, candidate):
            assert await answered(r, f"m@{manifest.version}") == manifest.version
        status = r.router.rollout("m")
        assert (status.share, status.active.requests, status.candidate.requests) == (
            share, number - expected, expected)
        assert r.metric("edged_rollout_requests_total", model="m", version=candidate.version) == expected
        assert r.metric("edged_rollout_share", model="m", version=candidate.version) == share
        told = {each.version: (each.share, each.candidate) for each in r.router.models()}
        assert told == {active.version: (1 - share, False), candidate.version: (share, True)}
        expected_texts = await texts(r, active, candidate)
        assert len(set(expected_texts.values())) == 2


async def test_a_candidate_of_a_loaded_name_is_loaded_before_its_first_request(rig: Make) -> None:
    async with rig() as r:
        r.install("m")
        candidate = r.install("m", activate=False)
        await begun(r, candidate)
        await until(lambda: state(r, candidate) is ModelState.READY)
        assert r.router.rollout("m").candidate.requests == 0


async def test_a_good_candidate_is_called_so_with_figures(rig: Make) -> None:
    async with rig() as r:
        active, candidate = r.install("m"), r.install("m", activate=False)
        await begun(r, candidate)
        await until(lambda: state(r, candidate) is ModelState.READY)
        await counts(r, 2 * ENOUGH + 4)
        status = r.router.rollout("m")
        assert (status.verdict, status.share, status.returned_at) == (Verdict.NO_WORSE, 0.5, None)
        for side in (status.active, status.candidate):
            assert side.errors == 0
            assert side.first_token_s is not None
            assert side.first_token_p90_s is not None
            assert side.first_token_s <= side.first_token_p90_s
            assert side.token_s is not None
        assert (await r.router.activate(f"m@{candidate.version}")).version == candidate.version
        assert await counts(r, 10) == {candidate.version: 10}
        with pytest.raises(NotFound, match=f"m@{candidate.version}, is the active version"):
            r.router.rollout("m")
        await until(lambda: state(r, active) is ModelState.ABSENT)


async def test_one_failure_is_no_verdict_and_another_candidate_begins_anew(rig: Make) -> None:
    async with rig() as r:
        active, candidate, other = r.install("m"), *(r.install("m", activate=False, fail_at_token=2) for _ in range(2))
        await begun(r, candidate, 0.2)
        assert await counts(r, 50) == {active.version: 40, candidate.version: 9, None: 1}
        status = r.router.rollout("m")
        assert (status.verdict, status.candidate.errors) == (Verdict.TRYING, 1)
        await reload(r, other.version, 0.2)
        status = r.router.rollout("m")
        assert (status.candidate.version, status.candidate.requests) == (other.version, 0)


async def test_a_candidate_whose_worker_dies_each_time_is_taken_back(rig: Make) -> None:
    """One that dies of a request twice does not take it any more; the active version does, and it counts."""
    async with rig(breaker=lambda: Breaker(first_s=0.01, limit=100)) as r:
        active, candidate = r.install("m"), r.install("m", activate=False, crash_at_token=2)
        await begun(r, candidate, 0.2)
        found = await counts(r, 60)
        assert found == {active.version: 58, None: 2}
        status = r.router.rollout("m")
        assert (status.verdict, status.share) == (Verdict.WORSE, 0.0)
        assert (status.candidate.requests, status.candidate.errors) == (4, 4)
        assert "requests failed" in status.words
        assert r.metric("edged_rollout_errors_total", model="m", version=candidate.version) == 4
        assert r.metric("edged_rollout_returns_total", model="m") == 1
        assert r.metric("edged_rollout_share", model="m", version=candidate.version) == 0
        assert r.router.status(f"m@{candidate.version}").share is None
        await until(lambda: state(r, candidate) is ModelState.ABSENT)
        kept = json.loads((r.store.home / "rollouts.json").read_bytes())
        assert kept["m"]["candidate"]["version"] == candidate.version


async def test_a_candidate_that_is_slower_is_taken_back(rig: Make) -> None:
    async with rig() as r:
        active, candidate = r.install("m", step_ms=1), r.install("m", activate=False, step_ms=40)
        await begun(r, candidate)
        await until(lambda: state(r, candidate) is ModelState.READY)
        found: Counter[str | None] = Counter()
        while r.router.rollout("m").verdict is not Verdict.WORSE:
            found += await counts(r, 4)
            assert found.total() < 400
        assert found[None] == 0
        assert "token takes" in r.router.rollout("m").words
        assert await counts(r, 10) == {active.version: 10}


@pytest.mark.parametrize("knobs", [{"refuse": "weights.bin is cut short"}, {"crash_on_load": True}])
async def test_a_candidate_that_cannot_be_loaded_is_taken_back_at_once_and_costs_nobody_a_request(
    rig: Make, knobs: dict[str, object],
) -> None:
    """Those who waited for it, without having named it, are answered by the active version."""
    async with rig(breaker=lambda: Breaker(first_s=0.01)) as r:
        active, candidate = r.install("m"), r.install("m", activate=False, **knobs)
        r.models_file.write_text(f'[models.m]\ncandidate = "{candidate.version}"\nshare = 0.5\n')
        await r.router.reload()
        found = Counter(await asyncio.gather(*(answered(r) for _ in range(8))))
        assert found == {active.version: 8}
        status = r.router.rollout("m")
        assert (status.verdict, status.share) == (Verdict.WORSE, 0.0)
        assert status.words.startswith("it cannot serve: ")
        with pytest.raises(EdgedError):
            await r.generate(f"m@{candidate.version}")
        loads = r.metric("edged_model_load_seconds_count", model="m")
        assert r.router.rollout("m", retry=True).verdict is Verdict.TRYING
        await until(lambda: r.router.rollout("m").verdict is Verdict.WORSE)
        assert r.metric("edged_rollout_returns_total", model="m") == 2
        assert r.metric("edged_model_load_seconds_count", model="m") == loads == 1


async def test_a_verdict_holds_after_a_restart_until_another_candidate_is_named_or_somebody_asks(
    rig: Make,
) -> None:
    first = rig()
    active = first.install("m")
    bad = first.install("m", activate=False, refuse="weights.bin is cut short")
    good = first.install("m", activate=False)
    first.models_file.write_text(f'[models.m]\ncandidate = "{bad.version}"\nshare = 0.5\n')
    async with first:
        await first.router.reload()
        assert await counts(first, 4) == {active.version: 4}
    second = Rig(first.store.home.parent, catalog=first.models_file.read_text())
    async with second:
        assert await counts(second, 4) == {active.version: 4}
        status = second.router.rollout("m")
        assert status.words == "it cannot serve: weights.bin is cut short"
        assert status.returned_at is not None
        assert state(second, bad) is ModelState.ABSENT
        status = second.router.rollout("m", retry=True)
        assert (status.verdict, status.share, status.returned_at) == (Verdict.TRYING, 0.5, None)
        await until(lambda: second.router.rollout("m").verdict is Verdict.WORSE)
        await reload(second, good.version, 0.5)
        assert await counts(second, 4) == {active.version: 2, good.version: 2}
        await reload(second, bad.version, 0.5)
        assert second.router.rollout("m").verdict is Verdict.TRYING


async def test_a_home_that_cannot_be_written_still_takes_a_candidate_back(rig: Make) -> None:
    async with rig() as r:
        active, candidate = r.install("m"), r.install("m", activate=False, refuse="no")
        (r.store.home / "rollouts.json").mkdir()
        await begun(r, candidate)
        assert await counts(r, 8) == {active.version: 8}
        assert r.router.rollout("m").verdict is Verdict.WORSE


@pytest.mark.parametrize(("candidate", "words"), [
    (None, r'no candidate of m is tried; .*\[models\."m"\]: candidate'), ("0000", "no version '0000' of m; here are"),
])
async def test_no_candidate_or_one_that_is_not_here_changes_nothing_and_is_told(
    rig: Make, candidate: str | None, words: str,
) -> None:
    async with rig() as r:
        active = r.install("m")
        r.models_file.write_text(f'[models.m]\ncandidate = "{candidate}"\nshare = 0.5\n' if candidate else "")
        await r.router.reload()
        assert await counts(r, 4) == {active.version: 4}
        with pytest.raises(NotFound, match=words):
            r.router.rollout("m")


async def test_clients_that_go_away_say_nothing_of_a_candidate(rig: Make) -> None:
    async with rig() as r:
        r.install("m", step_ms=5)
        candidate = r.install("m", activate=False, step_ms=5)
        await begun(r, candidate)
        for _ in range(10):
            generation = await r.generate("m", tokens=None)
            await anext(generation)
            await generation.cancel()
        late = WorkerDied("too late")
        for _ in range(2):
            await (await r.generate("m", tokens=None)).cancel(late)
        status = r.router.rollout("m")
        assert (status.active.requests, status.candidate.requests) == (1, 1)
        assert (status.active.errors, status.candidate.errors) == (1, 1)
