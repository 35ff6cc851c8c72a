from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware.selftest import (
    LEAST_POSITIONS,
    LIKELIEST,
    SAME_FORM,
    SISTER_FORM,
    Limits,
    Position,
    compare,
    sensible,
)

pytestmark = pytest.mark.unit

VOCABULARY = 200


def position(logits: list[float]) -> Position:
    most = max(logits)
    total = most + math.log(sum(math.exp(value - most) for value in logits))
    ids = sorted(range(len(logits)), key=lambda token: -logits[token])[:LIKELIEST]
    return Position(tuple(ids), tuple(logits[token] - total for token in ids))


def logits_of(seed: int) -> list[float]:
    random = Random(seed)
    return [random.gauss(0, 3) for _ in range(VOCABULARY)]


def noisy(seed: int, noise: float) -> list[float]:
    random = Random(seed + 10**6)
    return [value + random.gauss(0, noise) for value in logits_of(seed)]


PROCESSOR = [position(logits_of(seed)) for seed in range(40)]


def test_the_same_numbers_pass() -> None:
    verdict = compare(PROCESSOR, PROCESSOR, SAME_FORM, name="cuda")
    assert verdict.passed
    assert (verdict.top1_agreement, verdict.mean_difference, verdict.max_difference) == (1.0, 0.0, 0.0)
    assert verdict.reason == "cuda computes what the processor does"


def test_the_rounding_of_another_device_passes() -> None:
    device = [position(noisy(seed, 0.1)) for seed in range(40)]
    verdict = compare(device, PROCESSOR, SAME_FORM, name="cuda")
    assert verdict.passed
    assert 0 < verdict.mean_difference < SAME_FORM.mean_difference


def test_noise_on_the_logits_is_refused_and_the_reason_says_by_how_much() -> None:
    verdict = compare([position(noisy(seed, 3)) for seed in range(40)], PROCESSOR, SAME_FORM, name="vulkan")
    assert not verdict.passed
    assert verdict.reason.startswith("vulkan answers wrongly: ")
    assert "0.3 is the most" in verdict.reason


def test_one_position_that_is_far_off_is_enough() -> None:
    """Memory that fails in one place, a kernel that is wrong for one shape."""
    device = [*PROCESSOR[:-1], position(logits_of(999))]
    verdict = compare(device, PROCESSOR, SAME_FORM, name="cuda")
    assert not verdict.passed
    assert "log-probabilities off by up to" in verdict.reason


def test_tokens_in_another_order_are_refused() -> None:
    """Right numbers at wrong places: a permuted vocabulary."""
    device = [position([logits[(token + 1) % VOCABULARY] for token in range(VOCABULARY)])
              for logits in map(logits_of, range(40))]
    assert not compare(device, PROCESSOR, SISTER_FORM, name="cuda").passed


def test_a_near_tie_may_fall_either_way() -> None:
    ties = [position([5.0, 5.0 - 0.05, *([-5.0] * 30)]) for _ in range(20)]
    other = [position([5.0 - 0.05, 5.0, *([-5.0] * 30)]) for _ in range(20)]
    assert compare(other, ties, SAME_FORM, name="cuda").top1_agreement == 1.0


def test_a_graph_that_gives_the_last_positions_only_is_compared_there() -> None:
    verdict = compare(PROCESSOR[-20:], PROCESSOR, SAME_FORM, name="cuda")
    assert (verdict.passed, verdict.positions, verdict.max_difference) == (True, 20, 0.0)


@pytest.mark.parametrize("device", [[], PROCESSOR[-LEAST_POSITIONS + 1:]])
def test_too_few_positions_prove_nothing(device: list[Position]) -> None:
    assert not compare(device, PROCESSOR, SAME_FORM, name="cuda").passed


def test_positions_of_another_place_in_the_text_are_refused() -> None:
    assert not compare(PROCESSOR[:-1], PROCESSOR, SISTER_FORM, name="cuda").passed


@pytest.mark.parametrize(
    ("logprob", "passed"), [(-3.5, True), (-7.7, True), (-7.9, False), (-10.8, False), (-25.0, False), (None, False)])
def test_without_another_form_to_compare_with_a_device_must_make_sense_of_a_text(
    logprob: float | None, passed: bool
) -> None:
    """Of a vocabulary of 49,152, chance gives −10.8 nats a token."""
    verdict = sensible(logprob, 49_152, name="cuda")
    assert verdict.passed is passed
    assert ("no version runs on the processor" if passed else "cuda answers wrongly") in verdict.reason


def test_logits_that_are_no_numbers_are_refused_and_it_is_said_whose_they_are() -> None:
    broken = [Position((), ()), *PROCESSOR[1:]]
    assert "cuda answers wrongly" in compare(broken, PROCESSOR, SAME_FORM, name="cuda").reason
    verdict = compare(PROCESSOR, broken, SAME_FORM, name="cuda")
    assert not verdict.passed
    assert "the processor gave" in verdict.reason


def test_nothing_compared_proves_nothing() -> None:
    assert not compare([], [], SAME_FORM, name="cuda").passed


@given(st.lists(st.lists(st.floats(-30, 30), min_size=2, max_size=60), min_size=1, max_size=8),
       st.sampled_from([SAME_FORM, SISTER_FORM]))
def test_a_device_always_agrees_with_itself(logits: list[list[float]], limits: Limits) -> None:
    positions = [position(each) for each in logits] * LEAST_POSITIONS
    assert compare(positions, positions, limits, name="cuda").passed
