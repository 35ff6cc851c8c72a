"""Pulls as jobs: shared, listened to, cancelled, gone with the daemon."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from edged.daemon.jobs import Job, JobEvent, Jobs, JobState
from edged.daemon.metrics import Metrics
from edged.errors import Conflict, Internal, NotFound, ShuttingDown, SourceUnavailable
from edged.settings import Settings
from edged.store import Manifest, Store
from edged.store.catalog import CatalogFile
from tests.worker.daemon.rig import Stopwatch

pytestmark = pytest.mark.worker

COMMAND = (sys.executable, "-m", "tests.worker.daemon.stand_in_pull")


@pytest.fixture
def pulled() -> list[Manifest]:
    return []


@pytest.fixture
def catalog(tmp_path: Path) -> CatalogFile:
    """Empty; its user's file is models.toml."""
    (tmp_path / "shipped.toml").write_text("")
    return CatalogFile(tmp_path / "models.toml", tmp_path / "shipped.toml")


@pytest.fixture
async def jobs(tmp_path: Path, catalog: CatalogFile, pulled: list[Manifest]) -> AsyncIterator[Jobs]:
    before = {child.pid for child in psutil.Process().children()}
    made = Jobs(Settings(home=tmp_path), Store(tmp_path), catalog, Metrics(), made=pulled.append, pull=COMMAND,
                convert=COMMAND)
    yield made
    await made.close()
    assert [child.cmdline() for child in psutil.Process().children() if child.pid not in before] == []


async def events_of(job: Job) -> list[JobEvent]:
    return [event async for event in job.events()]


async def test_twenty_clients_share_one_pull(jobs: Jobs, pulled: list[Manifest]) -> None:
    asked = await asyncio.gather(*(jobs.pull("some-model") for _ in range(20)))
    manifests = await asyncio.gather(*(job.result() for job in asked))
    assert len({manifest.source for manifest in manifests}) == 1
    assert [manifest.name for manifest in pulled] == ["some-model"]
    again = await jobs.pull("some-model")
    assert (await again.result()).source != manifests[0].source


async def test_progress_reaches_every_listener_and_notes_are_kept(jobs: Jobs) -> None:
    job = await jobs.pull("some-model")
    seen = await asyncio.gather(events_of(job), events_of(job))
    for events in seen:
        stages = [event.progress.done_bytes for event in events if event.progress]
        assert len(set(stages)) >= 3
        assert stages == sorted(stages)
        assert events[-1].state is JobState.DONE
        assert events[-1].notes == ("a note",)
        assert all(event.state is JobState.RUNNING for event in events[:-1])
    assert len(await events_of(job)) == 1


async def test_slow_listener_gets_the_latest_and_holds_up_nobody(jobs: Jobs) -> None:
    job = await jobs.pull("chatty")
    listening = job.events()
    await anext(listening)
    await job.result()
    rest = [event async for event in listening]
    assert len(rest) <= 2
    assert rest[-1].state is JobState.DONE


async def test_error_of_the_pull_is_raised_as_itself(jobs: Jobs) -> None:
    with pytest.raises(SourceUnavailable, match="the hub does not answer"):
        await (await jobs.pull("fails")).result()


async def test_pull_that_dies_says_how(jobs: Jobs) -> None:
    with pytest.raises(Internal, match=r"exit code -9: Fatal Python error: out of luck at x\.py"):
        await (await jobs.pull("dies")).result()


async def test_cancelled_pull_ends_and_can_be_asked_for_again(jobs: Jobs) -> None:
    job = await jobs.pull("endless")
    assert jobs.cancel(job.id) is job
    watch = Stopwatch()
    with pytest.raises(Conflict, match="cancelled"):
        await job.result()
    assert watch.seconds < 3
    assert job.status().state is JobState.CANCELLED
    assert await jobs.pull("endless") is not job


async def test_closing_kills_what_runs(jobs: Jobs) -> None:
    job = await jobs.pull("stubborn")
    async for event in job.events():
        if event.progress and event.progress.stage == "stubborn":
            break
    watch = Stopwatch()
    await jobs.close()
    assert watch.seconds < 2
    with pytest.raises(ShuttingDown):
        await jobs.pull("another")


async def test_child_uses_the_store_of_this_daemon(jobs: Jobs, tmp_path: Path) -> None:
    job = await jobs.pull("environment")
    await job.result()
    progress = job.status().progress
    assert progress is not None
    assert progress.file == str(tmp_path)


async def test_jobs_are_found_and_counted(jobs: Jobs) -> None:
    job = await jobs.pull("some-model")
    await job.result()
    assert jobs.get(job.id) is job
    assert jobs.list() == [job]
    with pytest.raises(NotFound):
        jobs.get("pull-99")
    assert 'edged_jobs{kind="pull",state="done"} 1.0' in jobs._metrics.render().decode()
