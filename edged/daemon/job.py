"""A job: one child process that prints `JobLine`s, and its progress for any number of listeners.

A listener gets the latest moment, not every one: a slow listener holds up nobody and nothing is queued for it. What a
person should not miss (notes) is kept in every later event. A child dies with the daemon at its next line of progress,
since nobody reads that any more; pulls and conversions may be killed at any instant, and go on when asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum

import msgspec
import structlog
from msgspec import Struct

from edged.daemon.failures import revive
from edged.daemon.stderr import LastLines, gist
from edged.errors import Conflict, EdgedError, Internal
from edged.store.entries import JobFailed, JobLine, JobProgress, Manifest

CANCEL_GRACE_S = 5.0
KEPT_NOTES = 50
LINE_BYTES = 4 << 20

log = structlog.get_logger("edged.daemon")


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """Each value is the noun for people, too."""

    PULL = "pull"
    CONVERSION = "conversion"


class JobEvent(Struct, frozen=True, kw_only=True):
    """One moment of a job; the last one is not RUNNING. reference: what was asked for, in a few words. manifest: of one
    that is DONE. error: of one that FAILED."""

    id: str
    kind: JobKind
    reference: str
    state: JobState
    seconds: float
    progress: JobProgress | None = None
    notes: tuple[str, ...] = ()
    manifest: Manifest | None = None
    error: JobFailed | None = None


class Job:
    def __init__(self, identity: str, kind: JobKind, reference: str, *, command: Sequence[str],
                 environment: dict[str, str], made: Callable[[Manifest], None]) -> None:
        """made: called with the version that the job has made, before anybody else is told."""
        self._made = made
        self.id, self.kind, self.reference = identity, kind, reference
        self._command, self._environment = command, environment
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
        """The version it made. Raises the job's error; Conflict when somebody cancelled it."""
        while self.running:
            await self._changed.wait()
        if self._manifest is not None:
            return self._manifest
        if self._error is not None:
            raise revive(self._error)
        raise cancelled(self.kind, self.reference)

    async def run(self) -> None:
        """Its whole life; never raises but for cancellation."""
        lines = LastLines(log.bind(job=self.id))
        try:
            await self._follow(lines)
        except OSError as error:
            self._fail(Internal(f"the {self.kind} could not be started ({os.strerror(error.errno or 0)})"))
        if self.running:
            code = self._process.returncode if self._process else None
            words = gist(list(lines.lines))
            self._fail(Internal(f"the {self.kind} ended early with exit code {code}" + (f": {words}" if words else "")))

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
            self._fail(Internal(f"the {self.kind} printed a line that is too long"))
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
            self._made(line.manifest)
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
        log.info("job.ended", job=self.id, kind=self.kind.value, reference=self.reference, state=state.value,
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


def cancelled(kind: JobKind, reference: str) -> Conflict:
    kept = "what was fetched is kept for the next one" if kind is JobKind.PULL else "nothing of it was kept"
    return Conflict(f"the {kind} of {reference} was cancelled; {kept}")
