"""POST /api/pull: the moments of a job as Ollama's lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edged.daemon.job import JobEvent, JobKind, JobState
from edged.errors import Conflict, EdgedError, ModelNotFound
from edged.store.entries import JobProgress
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import MANIFEST, FakeRouter, app_with, words

pytestmark = pytest.mark.unit

PULL = "/api/pull"


class FakeJob:
    """Plays its moments, then ends well or with an error."""

    def __init__(self, moments: list[JobProgress], error: EdgedError | None) -> None:
        self._moments, self._error = moments, error
        self.running = True

    async def events(self) -> AsyncIterator[JobEvent]:
        notes: tuple[str, ...] = ()
        for moment in self._moments:
            notes += (moment.note,) if moment.note else ()
            yield self._event(JobState.RUNNING, moment, notes)
        self.running = False
        yield self._event(JobState.FAILED if self._error else JobState.DONE, self._moments[-1], notes)

    async def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return MANIFEST

    def _event(self, state: JobState, moment: JobProgress, notes: tuple[str, ...]) -> JobEvent:
        return JobEvent(id="pull-1", kind=JobKind.PULL, reference="tiny-1b", state=state, seconds=1.0, progress=moment,
                        notes=notes)


class FakeJobs:
    def __init__(self, *moments: JobProgress, error: EdgedError | None = None) -> None:
        self._moments, self._error = [*moments], error
        self.asked: list[str] = []

    async def pull(self, reference: str) -> FakeJob:
        self.asked.append(reference)
        return FakeJob(self._moments, self._error)


RESOLVING = JobProgress(stage="resolving")
HALF = JobProgress(stage="downloading", file="m.gguf", done_bytes=50, total_bytes=100, note="README.md was not taken")
WHOLE = JobProgress(stage="downloading", file="m.gguf", done_bytes=100, total_bytes=100)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def app(jobs: FakeJobs) -> Any:
    return app_with(FakeRouter(words("a")), jobs)


async def test_progress_comes_in_lines_and_ends_with_success() -> None:
    reply = await ask(app(FakeJobs(RESOLVING, HALF, WHOLE)), PULL, {"model": "tiny-1b"})
    assert reply.answer_headers["content-type"] == "application/x-ndjson"
    bar = {"status": "downloading m.gguf", "digest": "tiny-1b", "total": 100}
    assert lines(reply.text) == [
        {"status": "resolving"}, {"status": "README.md was not taken"}, bar | {"completed": 50},
        bar | {"completed": 100}, {"status": "success"},
    ]


async def test_without_a_stream_only_the_end_is_told() -> None:
    reply = await ask(app(FakeJobs(RESOLVING, WHOLE)), PULL, {"model": "tiny-1b", "stream": False})
    assert reply.json == {"status": "success"}


@pytest.mark.parametrize("error", [ModelNotFound("no such model"), Conflict("the pull was cancelled")])
async def test_an_error_is_the_last_line_or_the_status(error: EdgedError) -> None:
    streamed = await ask(app(FakeJobs(RESOLVING, error=error)), PULL, {"model": "tiny-1b"})
    assert [*lines(streamed.text)[-1]] == ["error"]
    plain = await ask(app(FakeJobs(RESOLVING, error=error)), PULL, {"model": "tiny-1b", "stream": False})
    assert plain.status == error.status
    assert error.message in plain.json["error"]


@pytest.mark.parametrize(("said", "pulled"), [
    ({"model": "tiny-1b"}, "tiny-1b"), ({"name": "tiny:1b"}, "tiny-1b"), ({"model": "tiny-1b:latest"}, "tiny-1b"),
    ({"model": "org/repo:Q4_K_M"}, "org/repo:Q4_K_M"), ({"model": "other:latest"}, "other:latest"),
])
async def test_a_name_of_the_catalog_may_be_written_as_ollamas(said: dict[str, str], pulled: str) -> None:
    jobs = FakeJobs(RESOLVING)
    await ask(app(jobs), PULL, said | {"insecure": False, "username": "", "password": ""})
    assert jobs.asked == [pulled]


@pytest.mark.parametrize("said", [{"insecure": True}, {"username": "me"}, {"model": ""}, {"mode": "x"}])
async def test_what_is_not_served_is_refused(said: dict[str, Any]) -> None:
    jobs = FakeJobs(RESOLVING)
    assert (await ask(app(jobs), PULL, {"model": "tiny-1b"} | said)).status == 400
    assert jobs.asked == []
