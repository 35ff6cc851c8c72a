"""Conversions as jobs: shared, cancelled, gone on with after the daemon, begun by the catalog."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.daemon.job import Job, JobKind, JobState
from edged.daemon.jobs import Jobs
from edged.daemon.metrics import Metrics
from edged.errors import Conflict
from edged.settings import Settings
from edged.store import Manifest, Store, job_folders
from edged.store.catalog import CatalogFile
from edged.store.conversion import specify
from tests.worker.daemon.rig import install

pytestmark = pytest.mark.worker

CONVERT = (sys.executable, "-m", "tests.worker.daemon.stand_in_convert")


class Place:
    """A home, its catalog, and daemons' jobs over it, one after the other."""

    def __init__(self, folder: Path, catalog: str = "") -> None:
        self.home = folder / "home"
        self.models_file = folder / "models.toml"
        self.models_file.write_text(catalog)
        (folder / "shipped.toml").write_text("")
        self.shipped = folder / "shipped.toml"
        self.store = Store(self.home)
        self.made: list[Manifest] = []

    def jobs(self) -> Jobs:
        return Jobs(Settings(home=self.home), self.store, CatalogFile(self.models_file, self.shipped), Metrics(),
                    made=self.made.append, convert=CONVERT)


async def reached(job: Job, stage: str) -> None:
    async for event in job.events():
        if event.progress is not None and event.progress.stage == stage:
            return


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that within ten seconds")


async def test_the_same_conversion_is_one_job_and_tells_what_it_made(tmp_path: Path) -> None:
    place = Place(tmp_path)
    jobs = place.jobs()
    spec = specify("some-model", recipe="cpu-int4")
    first, second = await jobs.convert(spec), await jobs.convert(spec)
    assert first is second
    manifest = await first.result()
    assert (manifest.name, manifest.version) == ("some-model", "1" * 12)
    assert place.made == [manifest]
    status = first.status()
    assert (status.kind, status.reference) == (JobKind.CONVERSION, "some-model by cpu-int4")
    assert jobs.log_of(first.id) == "a library said something\n"
    assert await jobs.convert(specify("some-model", recipe="cpu-int8")) is not first
    await jobs.close()


async def test_what_a_stop_broke_off_goes_on_at_the_next_start(tmp_path: Path) -> None:
    place = Place(tmp_path)
    jobs = place.jobs()
    spec = specify("some-model", recipe="endless")
    await reached(await jobs.convert(spec), "merge")
    await jobs.close()
    assert (job_folders.folder_of(place.store.layout, spec) / "merge").is_dir()
    jobs = place.jobs()
    await jobs.start()
    [job] = jobs.list()
    assert (job.running, job.reference) == (True, "some-model by endless")
    await jobs.close()


async def test_a_cancelled_one_keeps_nothing_and_does_not_come_back(tmp_path: Path) -> None:
    place = Place(tmp_path)
    jobs = place.jobs()
    spec = specify("some-model", recipe="endless")
    job = await jobs.convert(spec)
    await reached(job, "merge")
    jobs.cancel(job.id)
    with pytest.raises(Conflict, match="cancelled"):
        await job.result()
    await until(lambda: job_folders.result_of(job_folders.folder_of(place.store.layout, spec)) is not None)
    await jobs.close()
    assert not (job_folders.folder_of(place.store.layout, spec) / "merge").exists()
    jobs = place.jobs()
    await jobs.start()
    assert jobs.list() == []
    await jobs.close()


async def test_the_catalog_begins_a_conversion_once_for_each_recipe(tmp_path: Path) -> None:
    place = Place(tmp_path, '[models.some-model]\nconvert = ["cpu-int4", "gguf-q8_0"]\n')
    pulled = install(place.store, "some-model")
    jobs = place.jobs()
    await jobs.start()
    await until(lambda: len(jobs.list()) == 2)
    assert sorted(job.reference for job in jobs.list()) == [
        f"some-model@{pulled.version} by {recipe}" for recipe in ("cpu-int4", "gguf-q8_0")]
    assert {job.status().state for job in jobs.list() if await job.result()} == {JobState.DONE}
    await jobs.close()
