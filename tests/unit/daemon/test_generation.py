"""One request's buffer: order, pausing, and one end whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from edged.daemon.generation import HIGH_MARK, LOW_MARK, Generation, Phase, content_hash
from edged.daemon.requests import MOST_MOVES, Requests
from edged.daemon.status import Served
from edged.errors import EdgedError, LoadFailed, WorkerDied
from edged.types import Delta, Finished, GenerateRequest, SamplingParams, TextPrompt, Usage

pytestmark = pytest.mark.unit

SERVED = Served(name="m", version="v", engine="fake", device="cpu", digest="d")
RAN, MOVED = WorkerDied("it ran"), WorkerDied("moved too often")


class Runner:
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause(self, generation: Generation) -> None:
        self.asked.append("pause")

    def resume(self, generation: Generation) -> None:
        self.asked.append("resume")

    def cancel(self, generation: Generation) -> None:
        self.asked.append("cancel")
        generation.end()


def new(ticket: int = 1, runner: Runner | None = None) -> Generation:
    return Generation(GenerateRequest(id=f"r{ticket}", prompt=TextPrompt("q")), ticket, runner or Runner(), 0.0)


async def rest(generation: Generation) -> list[str]:
    return [event.text for event in [event async for event in generation] if isinstance(event, Delta)]


async def test_events_come_in_order_and_then_the_end() -> None:
    generation = new()
    generation.begin(SERVED)
    reading = asyncio.create_task(rest(generation))
    await asyncio.sleep(0)
    for text in "abc":
        generation.feed(Delta("r1", 0, text))
        await asyncio.sleep(0)
    generation.feed(Finished("r1", Usage(1, 3)))
    generation.end()
    assert await reading == ["a", "b", "c"]
    assert generation.served is SERVED


async def test_error_comes_after_what_was_buffered() -> None:
    generation = new()
    generation.begin(SERVED)
    generation.feed(Delta("r1", 0, "a"))
    generation.end(WorkerDied("gone"))
    assert isinstance(await anext(generation), Delta)
    for _ in range(2):
        with pytest.raises(WorkerDied):
            await anext(generation)


async def test_error_before_a_worker_has_it_is_raised_from_acceptance() -> None:
    generation = new()
    generation.end(LoadFailed("cut short"))
    with pytest.raises(LoadFailed):
        await generation.accepted


async def test_full_buffer_pauses_once_and_an_emptied_one_resumes_once() -> None:
    runner = Runner()
    generation = new(runner=runner)
    generation.begin(SERVED)
    for number in range(HIGH_MARK + 10):
        generation.feed(Delta("r1", 0, str(number)))
    assert runner.asked == ["pause"]
    for _ in range(HIGH_MARK + 10 - LOW_MARK - 1):
        await anext(generation)
    assert runner.asked == ["pause"]
    await anext(generation)
    assert runner.asked == ["pause", "resume"]


async def test_cancel_ends_the_iterator_of_a_reader_that_waits() -> None:
    runner = Runner()
    generation = new(runner=runner)
    generation.begin(SERVED)
    generation.feed(Delta("r1", 0, "a"))
    await generation.cancel()
    await generation.cancel()
    assert await rest(generation) == []
    assert runner.asked == ["cancel"]


def test_identity_is_the_content_not_the_id_or_the_client() -> None:
    one = GenerateRequest(id="1", client="a", prompt=TextPrompt("q"))
    assert content_hash(one) == content_hash(GenerateRequest(id="2", client="b", prompt=TextPrompt("q")))
    assert content_hash(one) != content_hash(GenerateRequest(id="1", client="a", prompt=TextPrompt("q!")))
    assert content_hash(one) != content_hash(
        GenerateRequest(id="1", client="a", prompt=TextPrompt("q"), sampling=SamplingParams(seed=1)))


def error_of(generation: Generation) -> EdgedError | None:
    return generation._error


async def test_death_ends_what_ran_and_puts_the_others_back_in_order() -> None:
    requests = Requests()
    ran, submitted, late = new(1), new(2), new(3)
    for generation in (ran, submitted):
        requests.add(generation)
    for generation in requests.activate():
        generation.begin(SERVED)
    ran.phase = Phase.STARTED
    requests.add(late)
    assert requests.running() == 1
    assert requests.survive(RAN, MOVED) == [ran]
    assert error_of(ran) is RAN
    assert requests.waiting == [submitted, late]
    assert requests.active == {}
    assert requests.oldest_waiting() == 2


async def test_request_that_may_kill_before_it_starts_is_not_tried_for_ever() -> None:
    requests = Requests()
    generation = new()
    requests.add(generation)
    for _ in range(MOST_MOVES):
        requests.activate()
        generation.begin(SERVED)
        assert requests.survive(RAN, MOVED) == []
    requests.activate()
    generation.begin(SERVED)
    assert requests.survive(RAN, MOVED) == [generation]
    assert error_of(generation) is MOVED
    assert len(requests) == 0


async def test_only_older_requests_are_taken_while_a_model_leaves() -> None:
    requests = Requests()
    old, new_one = new(1), new(5)
    requests.add(new_one)
    requests.add(old)
    assert requests.activate(before=3) == [old]
    assert requests.waiting == [new_one]
    assert requests.drop(old) is True
    assert requests.drop(new_one) is False
    assert len(requests) == 0


async def test_what_came_together_is_taken_together_and_a_paused_row_goes_on() -> None:
    runner = Runner()
    generation = new(runner=runner)
    generation.begin(SERVED)
    for number in range(HIGH_MARK):
        generation.feed(Delta("r1", 0, str(number)))
    assert runner.asked == ["pause"]
    taken = [await anext(generation)]
    while more := generation.more():
        assert len(more) <= LOW_MARK
        taken += more
    assert [event.text for event in taken if isinstance(event, Delta)] == [str(number) for number in range(HIGH_MARK)]
    assert runner.asked == ["pause", "resume"]
    generation.end()
    assert await rest(generation) == []
