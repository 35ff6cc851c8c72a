"""Pulls as child processes: one for all who ask for the same reference, its progress for any number of listeners.

A listener gets the latest moment, not every one: a slow listener holds up nobody and nothing is queued for it. What a
person should not miss (notes) is kept in every later event. A child dies with the daemon at its next line of progress,
since nobody reads that any more; a pull may be killed at any instant.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum

import msgspec
import structlog
from msgspec import Struct

from edged.daemon.failures import revive
from edged.daemon.metrics import Metrics
from edged.daemon.stderr import LastLines, gist
from edged.errors import Conflict, EdgedError, Internal, NotFound, ShuttingDown
from edged.settings import Settings
from edged.store.entries import JobFailed, JobLine, JobProgress, Manifest

PULL = (sys.executable, "-m", "edged.store.pull")
CANCEL_GRACE_S = 5.0
KEPT_JOBS = 50
KEPT_NOTES = 50
LINE_BYTES = 4 << 20

log = structlog.get_logger("edged.daemon")


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(Struct, frozen=True, kw_only=True):
    """One moment of a job; the last one is not RUNNING. manifest: of a pull that is DONE. error: of one that FAILED."""

    id: str
    kind: str
    reference: str
    state: JobState
    seconds: float
    progress: JobProgress | None = None
    notes: tuple[str, ...] = ()
    manifest: Manifest | None = None
    error: JobFailed | None = None


class Job:
    def __init__(self, identity: str, reference: str, command: Sequence[str], environment: dict[str, str],
                 pulled: Callable[[Manifest], None]) -> None:
        self._pulled = pulled
        self.id, self.kind, self.reference = identity, "pull", reference
        self._command, self._environment = (*command, "--json-progress", "--", reference), environment
        self._state = JobState.RUNNING
        self._progress: JobProgress | None = None
        self._notes: list[str] = []
        self._manifest: Manifest | None = None
        self._error: JobFailed | None = None
        self._began = time.monotonic()
        self._ended: float | None = None
        self._cancelled = False
        self._process: asyncio.subprocess.Process | None = None
        #: Set and replaced at each change.
        self._changed = asyncio.Event()

    @property
    def running(self) -> bool:
        return self._state is JobState.RUNNING

    def status(self) -> JobEvent:
        return JobEvent(
            id=self.id, kind=self.kind, reference=self.reference, state=self._state,
            seconds=(self._ended or time.monotonic()) - self._began, progress=self._progress, notes=tuple(self._notes),
            manifest=self._manifest, error=self._error)

    async def events(self) -> AsyncIterator[JobEvent]:
        """From where it is now to its end, which comes last; any number of listeners."""
        while self.running:
            changed = self._changed
            yield self.status()
            await changed.wait()
        yield self.status()

    async def result(self) -> Manifest:
        """What was pulled. Raises the pull's error; Conflict when somebody cancelled it."""
        while self.running:
            await self._changed.wait()
        if self._manifest is not None:
            return self._manifest
        if self._error is not None:
            raise revive(self._error)
        raise Conflict(f"the pull of {self.reference} was cancelled; what was fetched is kept for the next one")

    async def run(self) -> None:
        """Its whole life; never raises but for cancellation."""
        lines = LastLines(log.bind(job=self.id))
        try:
            await self._follow(lines)
        except OSError as error:
            self._fail(Internal(f"the pull could not be started ({os.strerror(error.errno or 0)})"))
        if self.running:
            code = self._process.returncode if self._process else None
            words = gist(list(lines.lines))
            self._fail(Internal(f"the pull ended early with exit code {code}" + (f": {words}" if words else "")))

    def cancel(self) -> None:
        """The child gets time to tidy up, then none; `run` sees to it."""
        self._cancelled = True
        if self.running:
            self._signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        self._cancelled = True
        self._signal(signal.SIGKILL)

    async def _follow(self, lines: LastLines) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, start_new_session=True, limit=LINE_BYTES,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        if self._cancelled:
            self.cancel()
        stdout = self._process.stdout
        assert stdout is not None
        stderr = asyncio.create_task(lines.follow(self._process.stderr))
        try:
            async for raw in stdout:
                self._take(raw)
        except ValueError:
            self._fail(Internal("the pull printed a line that is too long"))
        finally:
            await self._reap()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stderr, 1.0)

    def _take(self, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=JobLine)
        except msgspec.MsgspecError:
            log.warning("job.unreadable_line", job=self.id)
            return
        if line.progress is not None:
            self._progress = line.progress
            if line.progress.note is not None:
                self._notes = [*self._notes, line.progress.note][-KEPT_NOTES:]
            self._tell()
        elif line.manifest is not None:
            self._manifest = line.manifest
            self._pulled(line.manifest)
            self._end(JobState.DONE)
        elif line.error is not None:
            self._error = line.error
            self._end(JobState.FAILED)

    def _fail(self, error: EdgedError) -> None:
        if not self.running:
            return
        if not self._cancelled:
            self._error = JobFailed(status=error.status, type=error.type, message=error.message, code=error.code,
                                     retry=error.retry)
        self._end(JobState.CANCELLED if self._cancelled else JobState.FAILED)

    def _end(self, state: JobState) -> None:
        if not self.running:
            return
        self._state, self._ended = state, time.monotonic()
        log.info("job.ended", job=self.id, kind=self.kind, reference=self.reference, state=state.value,
                 error=self._error.message if self._error else None)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reap(self) -> None:
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), CANCEL_GRACE_S)
        except (TimeoutError, asyncio.CancelledError):
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To the child alone to end, so that it tidies up; to all it started to kill."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)


class Jobs:
    """Owner of all jobs; keeps the last ones that ended. pulled: called with what a pull has installed, before anybody
    else is told."""

    def __init__(self, settings: Settings, metrics: Metrics, *,
                 pulled: Callable[[Manifest], None] = lambda manifest: None, command: Sequence[str] = PULL) -> None:
        self._settings, self._metrics, self._pulled, self._command = settings, metrics, pulled, command
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        metrics.on_render(self._set_gauges)

    async def pull(self, reference: str) -> Job:
        """The job that pulls it: the running one where there is one. Raises ShuttingDown."""
        if self._closed:
            raise ShuttingDown("the server is shutting down; pull again in a moment")
        for job in self._jobs.values():
            if job.running and job.reference == reference:
                return job
        job = Job(f"pull-{next(self._numbers)}", reference, self._command, self._environment(), self._pulled)
        self._jobs[job.id] = job
        self._tasks[job.id] = asyncio.create_task(self._run(job), name=job.id)
        self._forget_old()
        log.info("job.started", job=job.id, kind=job.kind, reference=reference)
        return job

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
        """Kill what runs: a pull goes on where it was when it is asked for again."""
        self._closed = True
        for job in self._jobs.values():
            job.kill()
        if self._tasks:
            await asyncio.wait([*self._tasks.values()])

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        finally:
            del self._tasks[job.id]

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
            self._metrics.jobs.labels(kind, state.value).set(count)
