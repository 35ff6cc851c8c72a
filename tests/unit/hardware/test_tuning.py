"""What is worth trying, and when it has won: races against made-up noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware.facts import Cpu
from edged.hardware.tuning import EVERY, MARGIN, TURNS, Race, options, seconds, thread_counts
from edged.types import Tuning

pytestmark = pytest.mark.unit


def cpu(physical: int, logical: int, *, usable: int | None = None, fast: int | None = None) -> Cpu:
    return Cpu(model="c", physical=physical, logical=logical, usable=usable or logical, fast=fast or physical)


def run(race: Race, truth: list[float], chance: random.Random, scatter: float = 0.05) -> int:
    """Until it is over; returns how many measurements of values that took. truth: seconds, with 1 for what is there."""
    measured = 0
    while not race.over:
        race.turn(abs(chance.gauss(1, scatter)), {
            number: abs(truth[number] * chance.gauss(1, scatter)) for number in race.left})
        measured += len(race.left)
    return measured


def wins(truth: float, races: int = 2000) -> float:
    chance = random.Random(1)
    won = 0
    for _ in range(races):
        race = Race(1)
        run(race, [truth], chance)
        won += race.winner is not None
    return won / races


def test_an_equal_value_hardly_ever_wins_and_a_faster_one_nearly_always() -> None:
    assert wins(1.0) < 0.035
    assert wins(1.05) < 0.005
    assert wins(0.87) > 0.9
    assert wins(0.7) > 0.99


def test_what_is_clearly_worse_is_dropped_after_one_turn() -> None:
    race = Race(2)
    race.turn(1.0, {0: 2.0, 1: 0.5})
    assert (race.left, race.over) == ([1], False)
    race.turn(1.0, {1: 2.0})
    assert (race.left, race.over, race.winner) == ([], True, None)


def test_what_cannot_win_any_more_is_dropped() -> None:
    race = Race(1)
    for there_s in (1.0, 1.2, 1.0):
        race.turn(there_s, {0: 1.05})
    assert race.over
    assert (race.turns, race.winner) == (3, None)


def test_a_gain_below_the_margin_is_none() -> None:
    race = Race(1)
    for _ in range(TURNS):
        race.turn(MARGIN - 0.01, {0: 1.0})
    assert (race.over, race.winner) == (True, None)
    race = Race(1)
    for _ in range(TURNS):
        race.turn(MARGIN + 0.01, {0: 1.0})
    assert race.winner == 0


def test_the_fastest_of_several_winners_is_taken() -> None:
    race = Race(3)
    while not race.over:
        race.turn(1.0, {number: (0.9, 0.7, 0.8)[number] for number in race.left})
    assert race.winner == 1
    assert race.gain(1) == pytest.approx(1 / 0.7)


def test_there_is_no_winner_before_the_last_turn() -> None:
    race = Race(1)
    for _ in range(TURNS - 1):
        race.turn(1.0, {0: 0.1})
        assert race.winner is None


@given(count=st.integers(0, 5), seed=st.integers(0, 999), truth=st.lists(st.floats(0.3, 3), min_size=5, max_size=5))
def test_every_race_ends_and_its_winner_is_faster(count: int, seed: int, truth: list[float]) -> None:
    race = Race(count)
    assert run(race, truth, random.Random(seed)) <= TURNS * count
    if race.winner is not None:
        assert race.gain(race.winner) >= MARGIN


@pytest.mark.parametrize(("machine", "counts"), [
    (cpu(2, 2), (1,)), (cpu(1, 1), ()), (cpu(4, 8), (2, 3, 8)), (cpu(10, 12, fast=2), (1, 12)),
    (cpu(8, 16, usable=2), (1,)),
])
def test_counts_of_threads_follow_the_processor(machine: Cpu, counts: tuple[int, ...]) -> None:
    assert thread_counts(machine) == counts


@pytest.mark.parametrize("engine", ["llama", "ort", "fake"])
def test_what_the_operator_decided_is_not_tried(engine: str) -> None:
    every = {option.name for option in options(engine, cpu(4, 8), sets_threads=True, said=())}
    assert "threads" in every
    for name in every:
        left = {option.name for option in options(engine, cpu(4, 8), sets_threads=True, said={name})}
        assert left == every - {name}


def test_no_kv_type_that_costs_quality_is_tried() -> None:
    tried = {(option.name, value) for option in options("llama", cpu(2, 2), sets_threads=True, said=())
             for value in option.values}
    assert ("key_type", "f16") in tried
    assert not {name for name, _ in tried} & {"value_type"}
    assert options("genai", cpu(2, 2), sets_threads=False, said=()) == []


def test_a_request_takes_its_prompt_and_its_answer_half_alone() -> None:
    assert seconds({"prefill": 512, "decode": 64, "decode_many": 128}, EVERY) == pytest.approx(1 + 1 + 0.5)


@pytest.mark.parametrize(("tuning", "words"), [
    (Tuning(), "the engine's own options (measured by `edged tune`)"),
    (Tuning(threads=1, options={"batch_threads": 2, "flash_attention": False}, gain=1.234),
     "threads 1, batch_threads 2, flash_attention false (measured by `edged tune`, 1.23 x the defaults)"),
    (Tuning(threads=3, by="load", gain=1.5), "threads 3 (measured at its first load, 1.50 x the defaults)"),
])
def test_tuning_in_words(tuning: Tuning, words: str) -> None:
    assert tuning.words() == words
