"""A conversion from its first stage to its last, whatever killed it before: it goes on after the last stage that ended.

One process has a job, and one conversion at a time runs on a store; the others wait. Each stage is a child process. On
success the folder keeps what was asked, the log and the result; after an error, what the next attempt goes on with.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from converters import child
from converters.child import StageFailed, Tell, failed_by
from converters.work import Work
from edged.errors import EdgedError, ModelNotFound
from edged.store import job_folders, locks
from edged.store.entries import JobFailed, JobProgress, Manifest
from edged.store.job_folders import JobResult

#: So often a job that waits says so: it ends when nobody reads that any more.
_WAITING_TOLD_S = 5.0


class Cancelled(SystemExit):
    """Somebody does not want it any more."""


def always(work: Work) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class StageKind:
    """run: does it, in a child; what it returns is kept as JSON. needed: False where this job does without it. frees:
    stages whose files nobody reads once this one has ended."""

    name: str
    run: Callable[[Work, Tell], object]
    needed: Callable[[Work], bool] = always
    frees: tuple[str, ...] = ()


def convert(
    work: Work, stages: Sequence[StageKind], made: Callable[[Work], Manifest], tell: Tell, *,
    beside_others: bool = False,
) -> Manifest:
    """Do what is left of the job, and return the version it made. made: which version that is, asked when all stages
    have ended. beside_others: do not wait for other conversions.

    Raises StageFailed, which is in the job's result already. Cancelled takes what it has made away, unless it is
    another process that has the job. Whatever else is raised (a pipe that nobody reads) leaves it to be gone on with.
    """
    layout = work.store.layout
    patience = _Patience(tell)
    with locks.lock(layout.job_lock(work.folder), waiting=patience.wait), contextlib.ExitStack() as held:
        try:
            if not beside_others:
                held.enter_context(locks.lock(layout.convert_lock, waiting=patience.wait))
            manifest = _run(work, stages, made, tell)
        except Cancelled:
            _log("cancelled")
            job_folders.abandon(layout, work.folder)
            _collect(work)
            raise
        except StageFailed as error:
            _failed(work, stages, error.failed)
            raise
        except EdgedError as error:
            _failed(work, stages, failed_by(error))
            raise StageFailed(failed_by(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            known = failed_by(child.explained("between stages", error))
            _failed(work, stages, known)
            raise StageFailed(known) from error
        tell(JobProgress(stage="done", fraction=1.0))
        return manifest


def keeps(failed: JobFailed) -> bool:
    """After this error, the next attempt can go on with the stages that have ended: asking again may help. Else what
    they have made is in the way (of a disk that is full), or would lead to the same error."""
    return failed.retry or failed.code == "insufficient_memory"


def _run(work: Work, stages: Sequence[StageKind], made: Callable[[Work], Manifest], tell: Tell) -> Manifest:
    if (manifest := _made_before(work)) is not None:
        _clear(work, stages)
        return manifest
    ended = [number for number, stage in enumerate(stages, 1) if work.is_done(stage.name)]
    first = ended[-1] if ended else 0
    if 0 < first < len(stages):
        tell(JobProgress(stage=stages[first].name, note=f"an earlier run ended after {stages[first - 1].name}; it goes "
                                                        f"on with {stages[first].name}"))
    for stage in stages[:first]:
        _free(work, stage)
    for stage in stages[first:]:
        if not stage.needed(work):
            continue
        _log(f"stage {stage.name}")
        tell(JobProgress(stage=stage.name, fraction=0.0))
        work.begin(stage.name)
        work.mark(stage.name, child.run(stage.name, partial(stage.run, work), tell))
        _free(work, stage)
    manifest = made(work)
    # The result says that it has ended, so it comes before the markers go.
    job_folders.write_result(work.store.layout, work.folder, JobResult(
        state="done", name=manifest.name, version=manifest.version))
    _clear(work, stages)
    _log(f"done: {manifest.name}@{manifest.version}")
    return manifest


def _made_before(work: Work) -> Manifest | None:
    """The job has ended already: it was killed while it tidied up, or another process had it. Who asks for it anew
    takes the result away (`job_folders.begin`)."""
    result = job_folders.result_of(work.folder)
    if result is None or result.state != "done":
        return None
    with contextlib.suppress(ModelNotFound):
        return work.store.manifest(result.name, result.version)
    return None


def _free(work: Work, stage: StageKind) -> None:
    for name in stage.frees:
        if work.is_done(name):
            work.free(name)


def _clear(work: Work, stages: Sequence[StageKind]) -> None:
    for stage in stages:
        work.forget(stage.name)
    _collect(work)


def _failed(work: Work, stages: Sequence[StageKind], failed: JobFailed) -> None:
    _log(f"failed: {failed.message}")
    with contextlib.suppress(OSError):
        if keeps(failed):
            for stage in stages:
                if not work.is_done(stage.name):
                    work.forget(stage.name)
        else:
            # The last stages first: a kill in between leaves a beginning, never a hole.
            for stage in reversed(stages):
                work.forget(stage.name)
    with contextlib.suppress(OSError):
        job_folders.write_result(work.store.layout, work.folder, JobResult(
            state="failed", name=work.spec.name, error=failed))
    _collect(work)


def _collect(work: Work) -> None:
    """What the job brought into the store and no model has."""
    with contextlib.suppress(OSError, EdgedError):
        work.store.collect()


def _log(words: str) -> None:
    """Standard output is the job's log."""
    print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {words}", flush=True)


class _Patience:
    """Says that it waits, at most every few seconds. Owned by the waiting thread."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told_s = float("-inf")

    def wait(self) -> None:
        if time.monotonic() - self._told_s >= _WAITING_TOLD_S:
            self._told_s = time.monotonic()
            self._tell(JobProgress(stage="waiting", file="another conversion"))
