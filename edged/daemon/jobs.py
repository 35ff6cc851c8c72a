"""Owner of all jobs: pulls and conversions, one for all who ask for the same.

Conversions outlive the daemon: each has a folder in the store (`edged.store.job_folders`), and what a crash or a stop
broke off goes on when the daemon starts again. They wait for each other by themselves: a machine converts one model at
a time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from edged.daemon.job import Job, JobEvent, JobKind, JobState
from edged.daemon.metrics import Metrics
from edged.errors import EdgedError, NotFound, ShuttingDown
from edged.settings import Settings
from edged.store import Store, job_folders
from edged.store.catalog import CatalogFile
from edged.store.entries import Manifest, ModelEntry
from edged.store.lineage import ConversionSpec, ConvertedSource

__all__ = ["Job", "JobEvent", "JobKind", "JobState", "Jobs"]

PULL = (sys.executable, "-m", "edged.store.pull", "--json-progress", "--")
CONVERT = (sys.executable, "-m", "converters")
ADAPT = (sys.executable, "-m", "converters.adapter")
KEPT_JOBS = 50

log = structlog.get_logger("edged.daemon")


class Jobs:
    """Keeps the last ones that ended. made: called with what a job has made, before anybody else is told."""

    def __init__(self, settings: Settings, store: Store, catalog: CatalogFile, metrics: Metrics, *,
                 made: Callable[[Manifest], None] = lambda manifest: None, pull: Sequence[str] = PULL,
                 convert: Sequence[str] = CONVERT, adapt: Sequence[str] = ADAPT) -> None:
        self._settings, self._store, self._catalog, self._metrics = settings, store, catalog, metrics
        self._made_hook, self._pull, self._convert, self._adapt = made, pull, convert, adapt
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._folders: dict[str, Path] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        metrics.on_render(self._set_gauges)

    async def start(self) -> None:
        """Conversions that were broken off go on, and those that the catalog asks for begin."""
        for spec in await asyncio.to_thread(job_folders.unfinished, self._store.layout):
            await self.convert(spec)
        self.convert_as_catalogued()

    def convert_as_catalogued(self) -> None:
        """Begin what the catalog's `convert` asks for and is not there yet, of every installed model."""
        for entry in self._catalog.current.models.values():
            if entry.convert and self._store.manifests.pointer(entry.name) is not None:
                self._convert_by_entry(entry)

    async def pull(self, reference: str) -> Job:
        """The job that pulls it: the running one where there is one. Raises ShuttingDown."""
        return self._pulled(reference, (*self._pull, reference))

    async def pull_adapter(self, model: str, reference: str, name: str | None = None) -> Job:
        """The same of an adapter beside an installed model. Raises ShuttingDown."""
        called = () if name is None else ("--as", name)
        return self._pulled(f"{reference} for {model}{f' as {name}' if name else ''}",
                            (*self._adapt, *called, "--", model, reference))

    def _pulled(self, reference: str, command: Sequence[str]) -> Job:
        self._refuse_closed()
        for job in self._jobs.values():
            if job.running and job.kind is JobKind.PULL and job.reference == reference:
                return job
        return self._begin(Job(f"pull-{next(self._numbers)}", JobKind.PULL, reference, command=command,
                               environment=self._environment(), made=self._made))

    async def convert(self, spec: ConversionSpec) -> Job:
        """The job that does it: the running one where there is one, else one that goes on with what an earlier one has
        left. Raises ShuttingDown."""
        self._refuse_closed()
        identity = f"convert-{job_folders.identity(spec)}"
        if (job := self._jobs.get(identity)) is not None and job.running:
            return job
        folder = job_folders.begin(self._store.layout, spec)
        self._jobs.pop(identity, None)
        self._folders[identity] = folder
        return self._begin(Job(identity, JobKind.CONVERSION, words_of(spec), command=(*self._convert, str(folder)),
                               environment=self._environment(), made=self._made))

    def log_of(self, identity: str) -> str:
        """The last lines of what the libraries of a conversion printed; empty for a pull. Raises NotFound."""
        folder = self._store.home / "jobs" / self.get(identity).id.removeprefix("convert-")
        return job_folders.log_tail(folder)

    def list(self) -> list[Job]:
        """Oldest first."""
        return [*self._jobs.values()]

    def get(self, identity: str) -> Job:
        """Raises NotFound."""
        if (job := self._jobs.get(identity)) is None:
            raise NotFound(f"there is no job {identity!r}; `edged jobs` lists those of this run of the server")
        return job

    def cancel(self, identity: str) -> Job:
        """Idempotent. Raises NotFound."""
        job = self.get(identity)
        job.cancel()
        return job

    async def close(self) -> None:
        """Kill what runs. A pull goes on where it was when it is asked for again, a conversion at the next start."""
        self._closed = True
        for job in self._jobs.values():
            job.kill()
        if self._tasks:
            await asyncio.wait([*self._tasks.values()])

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ShuttingDown("the server is shutting down; ask again in a moment")

    def _begin(self, job: Job) -> Job:
        self._jobs[job.id] = job
        self._tasks[job.id] = asyncio.create_task(self._run(job), name=job.id)
        self._forget_old()
        log.info("job.started", job=job.id, kind=job.kind.value, reference=job.reference)
        return job

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
            folder = self._folders.pop(job.id, None)
            if folder is not None and job.status().state is JobState.CANCELLED and not self._closed:
                # It may have been killed before it could tidy up by itself.
                await asyncio.to_thread(job_folders.abandon, self._store.layout, folder)
        finally:
            del self._tasks[job.id]

    def _made(self, manifest: Manifest) -> None:
        self._made_hook(manifest)
        entry = self._catalog.current.models.get(manifest.name)
        if manifest.conversion is None and not manifest.adapters and entry is not None and entry.convert:
            self._convert_by_entry(entry)

    def _convert_by_entry(self, entry: ModelEntry) -> None:
        if self._closed:
            return
        try:
            versions = self._store.versions(entry.name)
        except EdgedError as error:
            log.warning("convert.not_begun", model=entry.name, error=error.message)
            return
        for spec in wanted_conversions(entry.name, entry.convert, versions):
            task = asyncio.create_task(self.convert(spec))
            task.add_done_callback(_tell_failure)

    def _environment(self) -> dict[str, str]:
        """The child reads its settings itself; these are the ones that a flag of this process may have changed."""
        settings = self._settings
        said = {"EDGED_HOME": str(settings.home), "EDGED_HF_ENDPOINT": settings.hf_endpoint}
        if settings.models_file is None:
            said["EDGED_MODELS"] = "off"
        elif settings.models_file.exists():
            said["EDGED_MODELS"] = str(settings.models_file)
        if settings.memory_bytes is not None:
            said["EDGED_MEMORY_BYTES"] = str(settings.memory_bytes)
        if settings.hf_token is not None:
            said["EDGED_HF_TOKEN"] = settings.hf_token.get_secret_value()
        return {**os.environ, **said}

    def _forget_old(self) -> None:
        ended = [identity for identity, job in self._jobs.items() if not job.running]
        for identity in ended[:max(0, len(self._jobs) - KEPT_JOBS)]:
            del self._jobs[identity]

    def _set_gauges(self) -> None:
        self._metrics.jobs.clear()
        for (kind, state), count in Counter((job.kind, job.status().state) for job in self._jobs.values()).items():
            self._metrics.jobs.labels(kind.value, state.value).set(count)


def words_of(spec: ConversionSpec) -> str:
    return " + ".join((spec.source, *spec.adapters)) + f" by {spec.recipe}"


def wanted_conversions(name: str, recipes: Sequence[str], versions: Sequence[Manifest]) -> list[ConversionSpec]:
    """Each recipe by which no version was made yet of the one that was pulled last. Pure. versions: all that are here,
    oldest first."""
    pulled = [manifest for manifest in versions if manifest.conversion is None and not manifest.adapters]
    if not pulled:
        return []
    base = pulled[-1]
    made = {manifest.conversion.recipe for manifest in versions
            if manifest.conversion is not None and isinstance(manifest.source, ConvertedSource)
            and manifest.source.base == f"{name}@{base.version}" and not manifest.source.adapters}
    return [ConversionSpec(name=name, source=f"{name}@{base.version}", recipe=recipe)
            for recipe in recipes if recipe not in made]


def _tell_failure(task: asyncio.Task[Job]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("convert.not_begun", error=str(error))
