"""POST /api/pull: a pull job of the daemon, its moments as Ollama's lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from edged.api.fields import Table, boolean, later, served, text
from edged.api.ollama.names import readings

if TYPE_CHECKING:
    from edged.daemon.job import Job, JobEvent
    from edged.daemon.router import Router

_INSTEAD = "Models come from the hub of the settings, with its own credentials."
PULL: Table = {
    "model": served(text(512)), "name": served(text(512)), "stream": served(boolean),
    "insecure": later(False, instead=_INSTEAD), "username": later("", instead=_INSTEAD),
    "password": later("", instead=_INSTEAD),
}


class Progress(Struct, frozen=True):
    """digest: what the bar of total and completed is of. Ollama has one for each file; here it is the pull's reference,
    since the bytes are of the whole pull."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


def reference(said: str, router: Router) -> str:
    """`smollm2:135m` and `smollm2-135m:latest` of the catalog; all else as it was said."""
    return next((reading for reading in readings(said) if router.catalogued(reading)), said)


async def lines(job: Job) -> AsyncIterator[Progress]:
    """Ends with the status `success`. Raises the job's error; Conflict when somebody cancelled it."""
    notes = 0
    async for event in job.events():
        for note in event.notes[notes:]:
            yield Progress(note)
        notes = max(notes, len(event.notes))
        if event.progress is not None and job.running:
            yield _moment(event)
    await job.result()
    yield Progress("success")


def _moment(event: JobEvent) -> Progress:
    progress = event.progress
    assert progress is not None
    status = f"{progress.stage} {progress.file}" if progress.file else progress.stage
    if not progress.total_bytes:
        return Progress(status)
    return Progress(status, event.reference, progress.total_bytes, progress.done_bytes)
