"""Threads under foreign load: what is decided from made-up series, and that the engine hears of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.engines.base import Logits, RowWork, Threads
from edged.engines.fake import FakeGenerator, Knobs
from edged.hardware.processors import Limit, Reading
from edged.worker.draft import DraftRows
from edged.worker.foreign import (
    LOOK_S,
    LOWER_AFTER_S,
    LOWER_CORES,
    MOST_PATIENCE_S,
    RAISE_CORES,
    REST_S,
    Allowance,
    Foreign,
)
from tests.unit.worker.played import CountingGenerator, play, request, words

pytestmark = pytest.mark.unit


def after(allowance: Allowance, cores: float, seconds: float) -> int:
    for _ in range(round(seconds / LOOK_S)):
        allowance.observe(cores, LOOK_S)
    return allowance.threads


def changes(most: int, series: Iterable[float]) -> int:
    allowance = Allowance(most)
    told = [allowance.observe(cores, LOOK_S) for cores in series]
    return sum(one != other for one, other in itertools.pairwise([most, *told]))


@pytest.mark.parametrize(("most", "foreign", "expected"), [
    (2, 0.0, 2), (2, 0.3, 2), (2, 0.67, 1), (2, 1.0, 1), (2, 2.0, 1), (1, 1.0, 1), (4, 1.0, 3), (4, 2.4, 2),
    (4, 9.0, 1), (16, 3.2, 13),
])
def test_as_many_threads_as_processors_are_left(most: int, foreign: float, expected: int) -> None:
    assert after(Allowance(most), foreign, 3) == expected


def test_a_burst_of_a_moment_changes_nothing_and_a_load_that_stays_is_met_at_once() -> None:
    allowance = Allowance(2)
    assert allowance.observe(1.0, LOOK_S) == 2
    assert allowance.observe(0.0, LOOK_S) == 2
    assert allowance.observe(1.0, LOOK_S) == 2
    assert allowance.observe(1.0, LOOK_S) == 1


def test_threads_come_back_when_it_is_quiet() -> None:
    allowance = Allowance(4)
    assert after(allowance, 3.0, 1) == 1
    assert after(allowance, 3.0, 60) == 1
    assert after(allowance, 1.0, 2) == 3
    assert after(allowance, 0.1, 2) == 4


def test_the_noise_of_a_quiet_machine_with_clients_on_it_changes_nothing() -> None:
    chance = random.Random(1)
    assert changes(2, (max(0.0, chance.gauss(0.2, 0.1)) for _ in range(5000))) == 0


def test_noise_around_a_busy_process_changes_it_once() -> None:
    chance = random.Random(2)
    assert changes(2, (chance.gauss(0.95, 0.12) for _ in range(5000))) == 1


def test_a_load_that_comes_and_goes_costs_ever_fewer_changes() -> None:
    on_and_off = ([1.0] * 7 + [0.0] * 7) * 100
    assert changes(2, on_and_off[:140]) > 2
    assert changes(2, on_and_off) < 2 * len(on_and_off) * LOOK_S / MOST_PATIENCE_S + 20


@settings(max_examples=300)
@given(most=st.integers(1, 32), cores=st.floats(0, 40), jitter=st.lists(st.floats(-0.09, 0.09), min_size=100))
def test_a_steady_load_with_small_noise_never_flaps(most: int, cores: float, jitter: list[float]) -> None:
    """The distance of the two thresholds is more than the noise: after the first change nothing moves back."""
    allowance = Allowance(most)
    told = [allowance.observe(max(0.0, cores + off), LOOK_S) for off in jitter]
    assert all(later <= earlier for earlier, later in itertools.pairwise([most, *told]))
    assert LOWER_CORES - RAISE_CORES > 2 * 0.09


@given(most=st.integers(1, 64), series=st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 5))))
def test_threads_stay_within_one_and_all_whatever_comes(most: int, series: list[tuple[float, float]]) -> None:
    allowance = Allowance(most)
    for cores, seconds in series:
        assert 1 <= allowance.observe(cores, seconds) <= most


@given(most=st.integers(1, 16), series=st.lists(st.floats(0, 20)))
def test_after_any_history_a_quiet_machine_has_all_its_threads_again(most: int, series: list[float]) -> None:
    allowance = Allowance(most)
    for cores in series:
        allowance.observe(cores, LOOK_S)
    assert after(allowance, 0.0, MOST_PATIENCE_S + 1) == most


class Machine:
    """Two processors, and a foreign process that keeps one of them busy or not."""

    def __init__(self) -> None:
        self.now_s = self.foreign_s = 0.0

    def read(self) -> Reading:
        return Reading(self.now_s, self.now_s, (Limit(2, self.now_s + self.foreign_s),))

    def passes(self, seconds: float, *, foreign: float) -> None:
        self.now_s += seconds
        self.foreign_s += foreign * seconds


class Told(FakeGenerator):
    def __init__(self, threads: int) -> None:
        super().__init__(Knobs(threads=threads))
        self.told: list[Threads] = []

    def set_threads(self, threads: Threads) -> None:
        super().set_threads(threads)
        self.told.append(threads)


def test_the_engine_is_told_once_for_each_change() -> None:
    machine, engine = Machine(), Told(2)
    foreign = Foreign(engine, Threads(2, 2), machine)
    for load in [0.0] * 10 + [1.0] * 30 + [0.0] * 30:
        machine.passes(LOOK_S, foreign=load)
        foreign.look(machine.now_s)
    assert engine.told == [Threads(1, 1), Threads(2, 2)]
    assert foreign.threads == 2


def test_threads_of_prompts_and_of_decoding_are_each_bounded() -> None:
    machine, engine = Machine(), Told(2)
    foreign = Foreign(engine, Threads(decode=1, batch=2), machine)
    for _ in range(10):
        machine.passes(LOOK_S, foreign=1.0)
        foreign.look(machine.now_s)
    assert engine.told == [Threads(1, 1)]
    assert foreign.threads == 1


def test_a_draft_model_beside_it_gets_no_more_threads_than_it_has() -> None:
    machine, draft = Machine(), Told(1)
    rows = DraftRows(draft, draft.vocab.size, token_s=0.001)
    foreign = Foreign(Told(4), Threads(4, 4), machine, beside=rows.set_threads)
    for load in [3.0] * 10 + [0.0] * 10:
        machine.passes(LOOK_S, foreign=load)
        foreign.look(machine.now_s)
    assert foreign.threads == 4
    assert draft.told == [Threads(1, 1), Threads(1, 1)]
    DraftRows(Told(0), draft.vocab.size, token_s=0.001).set_threads(Threads(1, 1))


def test_it_looks_no_more_often_than_needed_and_forgets_what_is_long_past() -> None:
    machine, engine = Machine(), Told(2)
    foreign = Foreign(engine, Threads(2, 2), machine)
    for _ in range(40):
        machine.passes(LOOK_S / 40, foreign=1.0)
        foreign.look(machine.now_s)
    machine.passes(3600, foreign=1.0)
    foreign.look(machine.now_s)
    assert engine.told == []
    machine.passes(LOWER_AFTER_S, foreign=1.0)
    foreign.look(machine.now_s)
    assert engine.told == [Threads(1, 1)]


def test_what_others_did_while_nothing_was_computed_is_no_matter() -> None:
    machine, engine = Machine(), Told(2)
    foreign = Foreign(engine, Threads(2, 2), machine)
    for pause_s in (0.5, 60.0):
        foreign.rest(machine.now_s)
        machine.passes(pause_s, foreign=2.0)
        foreign.look(machine.now_s)
        machine.passes(LOOK_S, foreign=0.0)
        foreign.look(machine.now_s)
    assert engine.told == []


def test_after_a_pause_an_answer_begins_with_all_threads_and_after_a_short_one_with_what_there_was() -> None:
    machine, engine = Machine(), Told(2)
    foreign = Foreign(engine, Threads(2, 2), machine)

    def busy() -> None:
        for _ in range(5):
            machine.passes(LOOK_S, foreign=1.0)
            foreign.look(machine.now_s)

    busy()
    for pause_s, threads in ((REST_S / 2, 1), (REST_S + 0.1, 2)):
        foreign.rest(machine.now_s)
        machine.passes(pause_s, foreign=1.0)
        foreign.look(machine.now_s)
        assert foreign.threads == threads
        busy()
        assert foreign.threads == 1


def test_the_loop_looks_between_steps_and_tells_the_threads_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()

    class Busy(CountingGenerator):
        def step(self, work: Sequence[RowWork]) -> list[Logits]:
            machine.passes(LOOK_S, foreign=1.0)
            monkeypatch.setattr("edged.worker.loop.time.monotonic", lambda: machine.now_s)
            return super().step(work)

    orders = [request(words(4), max_tokens=20)]
    busy = play(orders, Knobs(threads=2, end_chance=0), engine=Busy,
                foreign=lambda generator: Foreign(generator, Threads(2, 2), machine))
    assert busy.generator.threads == Threads(1, 1)
    assert busy.stats.threads == 1
    quiet = play(orders, Knobs(threads=2, end_chance=0))
    assert quiet.stats.threads == 2
    (one, other) = (next(iter(played.requests.values())).text for played in (busy, quiet))
    assert one == other != ""
