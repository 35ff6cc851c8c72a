"""An embedding worker over its socket, with the fake engine: batches, cancels, failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.ipc.messages import Cancel, Events, Pause, Resume, Stats, Submit
from edged.types import Embedded, EmbedRequest, Event, Failed, Finished, Started
from tests.worker.worker import Worker, text

pytestmark = pytest.mark.worker


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(**said: Any) -> Worker:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        worker = Worker(folder, said={"context": 256, "task": "embed", **said}, task=said.get("task", "embed"))
        made.append(worker)
        worker.ready()
        return worker

    yield make
    for worker in made:
        worker.end()


def embed(*texts: str, id: str = "r", **said: Any) -> EmbedRequest:
    return EmbedRequest(id=id, inputs=list(texts), **said)


def submit(worker: Worker, *requests: EmbedRequest) -> None:
    worker.send(*map(Submit, requests))


def ended(id: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Finished | Failed) and event.id == id


def vectors(events: list[Event], id: str = "r") -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for event in events:
        if isinstance(event, Embedded) and event.id == id:
            rows = np.frombuffer(event.data, "<f4").reshape(len(event.indexes), -1)
            for index, row in zip(event.indexes, rows.tolist(), strict=True):
                assert index not in found
                found[index] = row
    return found


def test_it_says_what_it_is_and_answers_each_input_once(start: Callable[..., Worker]) -> None:
    worker = start(rows=4)
    texts = [f"word {'x ' * number}" for number in range(30)]
    submit(worker, embed(*texts))
    events = worker.until(ended("r"))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].usage.prompt_tokens == events[0].prompt_tokens == sum(len(one) + 1 for one in texts)
    assert sorted(vectors(events)) == list(range(30))


def test_waiting_requests_share_runs(start: Callable[..., Worker]) -> None:
    worker = start(rows=8, step_ms=100)
    submit(worker, *(embed("a box", id=str(number)) for number in range(17)))
    seen: set[str] = set()
    last = None
    while len(seen) < 17:
        frame = worker.receive()
        if isinstance(frame, Events):
            seen |= {event.id for event in frame.events if isinstance(event, Finished)}
    while last is None:
        frame = worker.receive()
        if isinstance(frame, Stats) and frame.stats.step_rows == 17:
            last = frame.stats
    # One may run alone before the others have come, and a slow machine takes smaller runs.
    assert last.steps < 9


def test_a_cancel_takes_effect_between_runs(start: Callable[..., Worker]) -> None:
    worker = start(rows=1, step_ms=50)
    submit(worker, embed(*["a box"] * 200, id="long"))
    worker.until(lambda event: isinstance(event, Embedded))
    worker.send(Cancel("long"))
    began = time.monotonic()
    submit(worker, embed("light", id="next"))
    events = worker.until(ended("next"))
    assert time.monotonic() - began < 5
    assert not any(ended("long")(event) for event in events)


def test_a_paused_request_goes_on_when_it_is_told_to(start: Callable[..., Worker]) -> None:
    worker = start(rows=1, step_ms=20)
    submit(worker, embed(*["a box"] * 20, id="slow"))
    seen = worker.until(lambda event: isinstance(event, Embedded))
    worker.send(Pause("slow"))
    submit(worker, embed("light", id="other"))
    seen += worker.until(ended("other"))
    assert not any(ended("slow")(event) for event in seen)
    worker.send(Resume("slow"))
    seen += worker.until(ended("slow"))
    assert sorted(vectors(seen, "slow")) == list(range(20))


def test_a_long_run_gives_signs_of_life_and_a_hang_does_not(start: Callable[..., Worker]) -> None:
    slow = start(token_ms=20)
    submit(slow, embed("x" * 200))
    frames = [frame for _, frame in slow.frames(3.5)]
    assert sum(isinstance(frame, Stats) for frame in frames) >= 3
    assert sorted(vectors(slow.until(ended("r")))) == [0]
    # The first two runs warm it up.
    hung = start(hang_at_token=3)
    submit(hung, embed("x" * 200))
    hung.until(lambda event: isinstance(event, Started))
    assert [frame for _, frame in hung.frames(2.5)] == []


@pytest.mark.parametrize("knob", ["fail_at_token", "nan_at_token"])
def test_a_run_that_fails_is_one_error_for_each_request_and_the_next_one_works(
        start: Callable[..., Worker], knob: str) -> None:
    # The first two runs warm it up.
    worker = start(**{knob: 3})
    submit(worker, embed("a box"))
    failed = worker.until(ended("r"))[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.retry) == (500, True)
    submit(worker, embed("a box", id="next"))
    assert sorted(vectors(worker.until(ended("next")), "next")) == [0]


def test_a_crash_comes_after_the_request_was_told_to_have_started(start: Callable[..., Worker]) -> None:
    worker = start(crash_on_text="kill")
    submit(worker, embed("please kill"))
    assert any(isinstance(event, Started) for event in worker.until(lambda event: isinstance(event, Started)))
    assert worker.exit_code() != 0


@pytest.mark.parametrize(("request_", "param", "code"), [
    (embed("x" * 300), "input", "context_length_exceeded"),
    (embed("a", "x" * 300), "input[1]", "context_length_exceeded"),
    (EmbedRequest(id="r", inputs=[[5, 999_999]]), "input", "invalid_value"),
    (embed("a", dimensions=3), "dimensions", "invalid_value"), (embed("a", query="q"), "model", "unsupported_task"),
])
def test_what_cannot_be_computed_is_refused_by_name(
        start: Callable[..., Worker], request_: EmbedRequest, param: str, code: str) -> None:
    worker = start()
    submit(worker, request_)
    failed = worker.until(ended("r"))[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.param, failed.code) == (400, param, code)


def test_a_request_for_text_is_refused(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.submit(text("hello"))
    failed = worker.until(ended("r"))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "unsupported_task"
