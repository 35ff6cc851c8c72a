"""When a draft is worth computing, by the arithmetic of measured figures alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.acceptance import (
    LEAST_GAIN,
    LONGEST_DRAFT,
    SHAPES,
    Acceptance,
    Curve,
    StepCosts,
    best_lengths,
    fair_rate,
    kind_of,
)

pytestmark = pytest.mark.unit

GRAM = 4


def costs(mixed_step: bool, steps: dict[int, float], pieces: dict[int, float] | None = None) -> StepCosts:
    """In which each figure was seen often."""
    found = StepCosts(1000.0, mixed_step=mixed_step)
    for _ in range(60):
        for count, seconds in steps.items():
            found.observe(count, count, seconds)
        for count, seconds in (pieces or {}).items():
            found.observe(1, count, seconds)
    return found


#: A step of one token takes 10 ms, each further one 1 ms: weights are read once.
CHEAP = {count: 0.010 + 0.001 * (count - 1) for count in range(1, 40)}
#: Each token takes as long as the first: nothing can be gained.
DEAR = {count: 0.010 * count for count in range(1, 40)}


def rate(rows: int, survivals: list[list[float]], lengths: list[int], figures: StepCosts) -> float:
    gained = [1 + sum(chances[:length]) for chances, length in zip(survivals, lengths, strict=True)]
    others = [1.0] * (rows - len(survivals))
    return fair_rate([*gained, *others], figures.tick_s(rows, [length for length in lengths if length]))


def test_what_is_accepted_makes_drafts_longer_and_what_is_refused_ends_them() -> None:
    acceptance = Acceptance()
    figures = costs(True, CHEAP)
    for _ in range(30):
        acceptance.observe(GRAM, LONGEST_DRAFT, refused=False)
    [long] = best_lengths(1, [acceptance.survival(GRAM, LONGEST_DRAFT)], figures, token_s=[0.0])
    assert long == LONGEST_DRAFT
    for _ in range(40):
        acceptance.observe(GRAM, 0, refused=True)
    assert best_lengths(1, [acceptance.survival(GRAM, LONGEST_DRAFT)], figures, token_s=[0.0]) == [0]


def test_a_draft_that_is_wrong_at_one_depth_is_cut_before_it() -> None:
    acceptance = Acceptance()
    for _ in range(60):
        acceptance.observe(GRAM, 3, refused=True)
    assert best_lengths(1, [acceptance.survival(GRAM, 10)], costs(True, CHEAP), token_s=[0.0]) == [3]


def test_where_a_token_costs_as_much_in_a_draft_as_alone_nothing_is_verified() -> None:
    assert best_lengths(1, [[0.95] * 8], costs(True, DEAR), token_s=[0.0]) == [0]


def test_what_drafting_takes_counts() -> None:
    survival = [0.9 ** depth for depth in range(1, 9)]
    assert best_lengths(1, [survival], costs(True, CHEAP), token_s=[0.0]) != [0]
    assert best_lengths(1, [survival], costs(True, CHEAP), token_s=[0.009]) == [0]


def test_a_step_beside_the_others_is_charged_where_rows_of_many_tokens_run_alone() -> None:
    """One row verifies in 14 ms what would take ten steps: alone a gain. Beside seven others, whose step costs as much
    without it, the same draft holds everybody up, however much of it is accepted."""
    figures = costs(False, {1: 0.010, 7: 0.019, 8: 0.020}, {9: 0.014})
    poor = [0.5 ** depth for depth in range(1, 9)]
    assert best_lengths(1, [poor], figures, token_s=[0.0]) != [0]
    assert best_lengths(8, [poor], figures, token_s=[0.0]) == [0]
    assert best_lengths(8, [[0.99] * 8], figures, token_s=[0.0]) == [0]


def test_where_all_rows_draft_in_one_cheap_step_all_of_them_do() -> None:
    assert best_lengths(4, [[0.9, 0.8]] * 4, costs(True, CHEAP), token_s=[0.0] * 4) == [2] * 4
    assert best_lengths(4, [[0.9, 0.8]] * 4, costs(True, DEAR), token_s=[0.0] * 4) == [0] * 4


def test_a_second_token_that_costs_much_is_taken_for_the_sake_of_those_after_it() -> None:
    figures = costs(True, {1: 0.010, 2: 0.025, 9: 0.026})
    assert best_lengths(1, [[0.99] * 8], figures, token_s=[0.0]) == [8]


chances = st.lists(st.floats(0.05, 0.99), min_size=1, max_size=4)


@given(st.lists(chances, min_size=1, max_size=3), st.integers(0, 3), st.booleans(),
       st.floats(0.001, 0.02), st.floats(0.0001, 0.02))
def test_never_worse_than_none_and_of_one_draft_the_best_length(
    conditional: list[list[float]], others: int, mixed_step: bool, first_s: float, more_s: float
) -> None:
    survivals = [list(itertools.accumulate(each, lambda chance, one: chance * one)) for each in conditional]
    rows = len(survivals) + others
    steps = {count: first_s + more_s * (count - 1) for count in range(1, 20)}
    figures = costs(mixed_step, steps, None if mixed_step else steps)
    none = [0] * len(survivals)
    lengths = best_lengths(rows, survivals, figures, token_s=[0.0] * len(survivals))
    found, plain = rate(rows, survivals, lengths, figures), rate(rows, survivals, none, figures)
    assert lengths == none or found >= LEAST_GAIN * plain
    if len(survivals) == 1:
        every = [0.0] + [rate(rows, survivals, [length], figures) for length in range(len(survivals[0]) + 1)
                 if mixed_step or length in SHAPES]
        assert lengths == [0] or found == pytest.approx(max(every))
        assert lengths != [0] or max(every) <= LEAST_GAIN * plain * (1 + 1e-9)


def test_a_new_sequence_starts_from_what_others_have_shown() -> None:
    prior = Acceptance()
    before = Acceptance(prior).survival(GRAM, 1)[0]
    first = Acceptance(prior)
    for _ in range(30):
        first.observe(GRAM, 0, refused=True)
    after = Acceptance(prior).survival(GRAM, 1)[0]
    assert first.survival(GRAM, 1)[0] < after < before / 2
    assert Acceptance(prior).survival(2, 1) == Acceptance().survival(2, 1)


def test_between_counts_that_were_seen_lie_straight_lines_and_beyond_them_the_rate_of_prompts() -> None:
    curve = Curve(tokens_per_s=500.0)
    curve.observe(2, 0.010)
    assert curve.seconds(1) == curve.seconds(2) == 0.010
    assert curve.seconds(7) == pytest.approx(0.010 + 5 / 500)
    for _ in range(60):
        curve.observe(10, 0.030)
    assert curve.seconds(6) == pytest.approx(0.020)


def test_one_step_that_was_held_up_changes_little() -> None:
    curve = Curve(tokens_per_s=500.0)
    for _ in range(20):
        curve.observe(1, 0.010)
    curve.observe(1, 5.0)
    assert curve.seconds(1) < 0.013
    for _ in range(20):
        curve.observe(1, 0.020)
    assert curve.seconds(1) == pytest.approx(0.020, rel=0.01)


def test_the_longer_the_match_the_more_is_expected_of_what_followed_it() -> None:
    assert [kind_of(match) for match in (2, 3, 4, 7, 8, 15, 16)] == [2, 3, 4, 4, 8, 8, 16]
    acceptance = Acceptance()
    worth = [sum(acceptance.survival(kind_of(match), 8)) for match in (2, 3, 4, 8, 16)]
    assert worth == sorted(worth)


def test_where_all_of_a_short_draft_was_right_a_longer_one_is_tried_soon() -> None:
    acceptance, figures = Acceptance(), costs(True, CHEAP)
    tried = []
    for _ in range(24):
        [length] = best_lengths(1, [acceptance.survival(2, LONGEST_DRAFT)], figures, token_s=[0.0])
        tried.append(length or 3)
        acceptance.observe(2, tried[-1], refused=False)
    assert tried == sorted(tried)
    assert tried[-1] == LONGEST_DRAFT


def test_a_first_piece_is_taken_for_a_row_of_one_token_and_the_rest_at_the_rate_of_prompts() -> None:
    figures = StepCosts(1000.0, mixed_step=False)
    known = [figures.known]
    figures.observe(1, 64, 0.070)
    figures.observe(2, 2, 0.012)
    assert [*known, figures.known] == [False, True]
    assert figures.tick_s(1, [7]) == pytest.approx(0.012 + (0.070 - 0.012) * 7 / 63)


def test_a_step_that_took_less_is_believed_sooner_than_one_that_took_more() -> None:
    slower, faster = Curve(500.0), Curve(500.0)
    for curve, seconds in ((slower, 0.010), (faster, 0.020)):
        for _ in range(20):
            curve.observe(1, seconds)
        curve.observe(1, 0.015)
    assert slower.seconds(1) - 0.010 < 0.020 - faster.seconds(1)


def test_what_a_long_prompt_took_says_nothing_of_one_token_once_that_was_seen() -> None:
    curve = Curve(tokens_per_s=500.0)
    curve.observe(60, 0.300)
    curve.observe(1, 0.010)
    assert curve.seconds(1) == 0.010


def test_a_count_that_was_not_seen_for_long_is_forgotten() -> None:
    curve = Curve(tokens_per_s=500.0)
    curve.observe(1, 0.010)
    curve.observe(5, 0.200)
    for _ in range(Curve.FORGET + 1):
        curve.observe(1, 0.010)
    assert curve.seconds(5) == pytest.approx(0.010 + 4 / 500)
