"""How many threads are best, found at the first load."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from edged.engines.base import Logits, RowWork, Threads
from edged.engines.fake import FakeGenerator, Knobs
from edged.hardware.processors import Limit, Reading
from edged.worker.first_load import MARGIN, MOST_TURNS, fastest, find_threads

pytestmark = pytest.mark.unit


class Machine:
    """Others use so many of its two processors between two readings."""

    def __init__(self, foreign: float = 0.0) -> None:
        self._foreign, self._now_s = foreign, 0.0

    def read(self) -> Reading:
        self._now_s += 1.0
        return Reading(self._now_s, self._now_s, (Limit(2, self._now_s * (1 + self._foreign)),))


class Timed(FakeGenerator):
    """Its steps take the time of this clock: three times as long with any number of threads but the best."""

    def __init__(self, best: int, *, step_s: float = 0.001) -> None:
        super().__init__(Knobs(threads=2))
        self.now_s = 0.0
        self._best, self._step_s = best, step_s

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        assert self.threads is not None
        used = self.threads.batch if any(len(item.tokens) > 1 for item in work) else self.threads.decode
        self.now_s += self._step_s * (1 if used == self._best else 3)
        return super().step(work)


Make = Callable[..., Timed]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(best: int, **said: float) -> Timed:
        engine = Timed(best, **said)
        monkeypatch.setattr("edged.worker.first_load.time.monotonic", lambda: engine.now_s)
        return engine

    return made


def test_a_number_that_is_faster_by_far_is_taken_and_told(make: Make) -> None:
    engine = make(1)
    found = find_threads(engine, Threads(2, 2), (1,), Machine())
    assert found.threads == engine.threads == Threads(1, 1)
    assert found.tuning is not None
    assert (found.tuning.threads, found.tuning.options, found.tuning.by) == (1, {"batch_threads": 1}, "load")
    assert found.tuning.gain == pytest.approx(3)
    assert engine.kv_used_tokens == 0


def test_the_default_that_is_best_stays_and_is_not_measured_again(make: Make) -> None:
    engine = make(2)
    found = find_threads(engine, Threads(2, 2), (1,), Machine())
    assert found.threads == engine.threads == Threads(2, 2)
    assert found.tuning is not None
    assert found.tuning.chosen == {}


@pytest.mark.parametrize("foreign", [0.5, 1.5])
def test_nothing_is_kept_of_a_busy_machine(make: Make, foreign: float) -> None:
    engine = make(1)
    found = find_threads(engine, Threads(2, 2), (1,), Machine(foreign))
    assert (found.threads, engine.threads, found.tuning) == (Threads(2, 2), Threads(2, 2), None)
    assert engine.kv_used_tokens == 0


def test_a_model_too_slow_for_a_second_keeps_the_default(make: Make) -> None:
    engine = make(1, step_s=0.1)
    found = find_threads(engine, Threads(2, 2), (1,), Machine())
    assert found.threads == Threads(2, 2)
    assert found.tuning is not None


def test_noise_on_a_quiet_machine_hardly_ever_chooses() -> None:
    chance = random.Random(3)
    chosen = 0
    for _ in range(5000):
        turns = chance.randint(3, MOST_TURNS)
        times = {count: [chance.gauss(1, 0.05) for _ in range(turns)] for count in (2, 1)}
        chosen += fastest(times, 2) != 2
    assert chosen <= 5


def test_every_turn_must_agree_and_the_margin_must_be_reached() -> None:
    assert fastest({2: [1.0] * 3, 1: [0.5] * 3}, 2) == 1
    assert fastest({2: [1.0] * 2, 1: [0.5] * 2}, 2) == 2
    assert fastest({2: [1.0] * 4, 1: [0.5, 0.5, 0.5, 1.1]}, 2) == 2
    assert fastest({2: [1.0] * 4, 1: [1 / (MARGIN - 0.01)] * 4}, 2) == 2
    assert fastest({2: [1.0] * 4, 1: [0.8] * 4, 4: [0.6] * 4}, 2) == 4
    assert fastest({2: []}, 2) == 2
