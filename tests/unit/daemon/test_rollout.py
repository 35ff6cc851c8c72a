"""Whether a candidate is worse: never by chance, always by enough, and what goes to it is counted."""

from __future__ import annotations

import math
import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.daemon.rollout import (
    CHANCE,
    ENOUGH,
    LEAST_ERRORS,
    LEAST_TIMES,
    Sample,
    Spread,
    Verdict,
    chance_of_more_errors,
    judge,
    lower_bound,
    quantile,
    upper_bound,
)

pytestmark = pytest.mark.unit

SECONDS = st.floats(0, 100)
SAMPLES = st.lists(st.builds(Sample, st.booleans(), st.none() | SECONDS, st.none() | SECONDS), max_size=80)


def samples(count: int, *, errors: int = 0, first_s: float = 0.1, token_s: float = 0.01, seed: int = 1) -> list[Sample]:
    """Times within a fifth of what is said, the failed ones first."""
    seeded = random.Random(seed)
    return [Sample(number < errors, first_s * seeded.uniform(0.8, 1.2), token_s * seeded.uniform(0.8, 1.2))
            for number in range(count)]


@given(st.integers(0, 1000), st.integers(1, 400))
def test_after_any_number_of_requests_exactly_its_share_went_to_the_candidate(thousandths: int, count: int) -> None:
    spread = Spread(thousandths / 1000)
    taken = [spread.take() for _ in range(count)]
    for number in range(count + 1):
        assert sum(taken[:number]) == number * thousandths // 1000
    places = [number for number, took in enumerate(taken) if took]
    gaps = {later - earlier for earlier, later in pairwise(places)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(SAMPLES)
def test_what_does_just_as_the_active_version_is_never_worse(both: list[Sample]) -> None:
    assert judge(both, both).verdict is not Verdict.WORSE


@given(SAMPLES, SAMPLES)
def test_of_two_versions_at_most_one_is_worse_than_the_other_in_errors(one: list[Sample], other: list[Sample]) -> None:
    only_errors = [[Sample(each.failed) for each in side] for side in (one, other)]
    verdicts = [judge(*only_errors).verdict, judge(*reversed(only_errors)).verdict]
    assert verdicts.count(Verdict.WORSE) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_whole_rollout_of_two_equal_versions_ends_well(seed: int) -> None:
    """Judged after each request, which gives chance every chance."""
    seeded = random.Random(seed)

    def one() -> Sample:
        return Sample(seeded.random() < 0.1, seeded.expovariate(5), seeded.expovariate(50))

    active, candidate = [], list[Sample]()
    for _ in range(200):
        active += [one() for _ in range(4)]
        candidate.append(one())
        assert judge(active[-500:], candidate).verdict is not Verdict.WORSE
    assert judge(active, candidate).verdict is Verdict.NO_WORSE


@pytest.mark.parametrize(("active", "candidate", "expected"), [
    (samples(27), samples(3, errors=3), Verdict.WORSE),
    (samples(27), samples(2, errors=2), Verdict.TRYING),
    (samples(300), samples(30, errors=LEAST_ERRORS - 1), Verdict.TRYING),
    (samples(4), samples(4, errors=4), Verdict.TRYING),
    (samples(7), samples(7, errors=7), Verdict.WORSE),
    (samples(100, errors=100), samples(100, errors=100), Verdict.NO_WORSE),
    (samples(500, errors=50), samples(50, errors=6), Verdict.NO_WORSE),
    (samples(500, errors=5), samples(60, errors=12), Verdict.WORSE),
    ([], samples(100, errors=100), Verdict.TRYING),
])
def test_more_errors_than_chance_explains_are_worse(
    active: list[Sample], candidate: list[Sample], expected: Verdict,
) -> None:
    assert judge(active, candidate).verdict is expected


@pytest.mark.parametrize(("change", "count", "expected"), [
    ({"first_s": 0.3}, 30, Verdict.WORSE),
    ({"first_s": 0.3}, LEAST_TIMES, Verdict.WORSE),
    ({"first_s": 9.0}, LEAST_TIMES - 1, Verdict.TRYING),
    ({"first_s": 0.12}, 60, Verdict.NO_WORSE),
    ({"token_s": 0.03}, 30, Verdict.WORSE),
    ({"token_s": 0.012}, 60, Verdict.NO_WORSE),
    ({"first_s": 0.01, "token_s": 0.001}, 60, Verdict.NO_WORSE),
])
def test_times_that_are_longer_by_more_than_the_limit_are_worse(
    change: dict[str, float], count: int, expected: Verdict,
) -> None:
    times = {"first_s": 0.1, "token_s": 0.01, **change}
    candidate = samples(count, first_s=times["first_s"], token_s=times["token_s"], seed=2)
    assert judge(samples(200), candidate).verdict is expected


def test_a_difference_that_nobody_notices_is_none() -> None:
    active, candidate = samples(200, first_s=0.004, token_s=0.0004), samples(200, first_s=0.02, token_s=0.002)
    assert judge(active, candidate).verdict is Verdict.NO_WORSE


def test_a_tail_that_is_slow_is_worse_though_the_median_is_not() -> None:
    tail = samples(160) + samples(40, first_s=2.0)
    assert "90% quantile" in judge(samples(300), tail).words


def test_few_requests_and_none_of_the_active_version_are_undecided_in_words() -> None:
    assert str(ENOUGH) in judge(samples(10), samples(10)).words
    assert "nothing to compare with" in judge([], samples(10)).words


def test_words_have_the_figures() -> None:
    assert judge(samples(27), samples(3, errors=3)).words == (
        "3 of its last 3 requests failed, of the active version's 0 of 27 (by chance: 0.0002)")
    words = judge(samples(200, first_s=0.1), samples(200, first_s=0.5)).words
    assert words.startswith("its first token takes ")
    assert "over 1.5 times as long" in words


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_the_chance_is_the_share_of_all_ways_to_pick_as_many(failed: list[bool], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(failed)))
    errors = sum(failed[:count])
    ways = list(combinations(range(len(failed)), count))
    as_many = sum(sum(failed[number] for number in way) >= errors for way in ways)
    chance = chance_of_more_errors(errors, count, sum(failed) - errors, len(failed) - count)
    assert chance == pytest.approx(as_many / len(ways))


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9]))
def test_bounds_leave_out_a_quantile_by_the_chance_that_is_said(count: int, q: float) -> None:
    """Against the binomial distribution itself: how many of the values lie below the true quantile."""
    ordered = [float(number) for number in range(count)]
    below = [math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(count + 1)]
    low, high = lower_bound(ordered, q), upper_bound(ordered, q)
    if low is None:
        assert below[0] > CHANCE
    else:
        assert sum(below[:int(low) + 1]) <= CHANCE * 1.000001
        assert sum(below[:int(low) + 2]) > CHANCE
    if high is None:
        assert below[count] > CHANCE
    else:
        assert sum(below[int(high) + 1:]) <= CHANCE * 1.000001


@given(st.lists(SECONDS, min_size=1, max_size=300).map(sorted), st.sampled_from([0.5, 0.9]))
def test_a_quantile_lies_within_its_bounds(ordered: list[float], q: float) -> None:
    low, value, high = lower_bound(ordered, q), quantile(ordered, q), upper_bound(ordered, q)
    assert value is not None
    assert low is None or low <= value
    assert high is None or value <= high
    assert sum(each <= value for each in ordered) >= q * len(ordered)
