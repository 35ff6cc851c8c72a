from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import BenchError
from bench.compare import BY_NAME, METRICS, Metric, check_lengths, compare, figure, median_interval
from bench.workloads import FULL, Workload
from tests.unit.bench.making import answer, burst

pytestmark = pytest.mark.unit

RATE = Metric("rate", "rate", "tok/s", "higher", goal=1.0)
TIME = Metric("time", "time", "s", "lower", goal=1.3)
by_name = {workload.name: workload for workload in FULL}


def test_a_drift_that_hits_both_sides_does_not_move_the_ratio() -> None:
    slower_and_slower = [100.0, 80.0, 60.0, 40.0, 20.0]
    comparison = compare(RATE, [1.1 * value for value in slower_and_slower], slower_and_slower)
    assert comparison.ratio == pytest.approx(1.1)
    assert comparison.low == pytest.approx(comparison.high) == pytest.approx(1.1)


def test_one_wild_round_does_not_move_the_ratio() -> None:
    assert compare(RATE, [100, 100, 5, 100, 100], [100] * 5).ratio == 1.0


def test_rounds_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare(RATE, [1.0, 2.0], [1.0])


@pytest.mark.parametrize(("count", "confidence"), [(1, 0.0), (4, 0.875), (5, 0.9375)])
def test_with_few_rounds_the_interval_is_the_extremes_and_says_what_they_are_worth(
    count: int, confidence: float
) -> None:
    values = [float(value) for value in range(count)]
    assert median_interval(values) == (0.0, float(count - 1), confidence)


def test_with_many_rounds_the_interval_is_narrower_than_the_extremes() -> None:
    # binomial(10, 1/2): 1 - 2·(1 + 10)/1024 = 0.9785 for the second from each end, the third has 0.8906
    low, high, confidence = median_interval([float(value) for value in range(10)])
    assert (low, high) == (1.0, 8.0)
    assert confidence == pytest.approx(0.978515625)


def test_no_rounds_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


@given(st.lists(st.floats(min_value=0.01, max_value=100), min_size=1, max_size=40))
def test_the_interval_encloses_the_median(values: list[float]) -> None:
    low, high, _ = median_interval(values)
    assert min(values) <= low <= median(values) <= high <= max(values)


@pytest.mark.parametrize(
    ("metric", "ratios", "verdict"),
    [
        (RATE, [1.01, 1.02, 1.02, 1.02, 1.03], "met"),
        (RATE, [0.97, 0.98, 0.98, 0.98, 0.99], "missed"),
        (RATE, [0.98, 1.01, 1.01, 1.01, 1.02], "open"),
        (TIME, [1.1, 1.2, 1.2, 1.2, 1.3], "met"),
        (TIME, [1.31, 1.4, 1.4, 1.4, 1.5], "missed"),
        (TIME, [1.2, 1.25, 1.25, 1.25, 1.4], "open"),
        (Metric("x", "x", "s", "lower"), [9.0], None),
    ],
)
def test_a_goal_is_met_or_missed_only_where_the_whole_interval_says_so(
    metric: Metric, ratios: list[float], verdict: str | None
) -> None:
    assert compare(metric, ratios, [1.0] * len(ratios)).verdict == verdict


def test_too_few_rounds_leave_a_goal_open() -> None:
    assert compare(RATE, [2.0, 2.0, 2.0, 2.0], [1.0] * 4).verdict == "open"


@pytest.mark.parametrize(("resident", "verdict"), [(63.0, "met"), (65.0, "missed")])
def test_a_limit_is_of_the_subject_alone(resident: float, verdict: str) -> None:
    assert compare(BY_NAME["idle-memory"], [resident], [30.0]).verdict == verdict


def test_decode_counts_the_tokens_after_the_first() -> None:
    assert figure(by_name["decode"], [burst(answer(first_s=1.0, last_s=3.0, completion_tokens=128))]) == 127 / 2


def test_prefill_does_not_count_tokens_from_a_cache() -> None:
    one = answer(sent_s=0.0, first_s=2.0, prompt_tokens=1024, cached_tokens=24, completion_tokens=1)
    assert figure(by_name["prefill"], [burst(one)]) == 500


def test_time_to_first_token_is_in_milliseconds_and_the_median_of_the_repeats() -> None:
    bursts = [burst(answer(sent_s=0.5, first_s=0.5 + wait)) for wait in (0.03, 0.02, 0.9)]
    assert figure(by_name["first-token"], bursts) == pytest.approx(30)


def test_the_total_rate_spans_from_the_first_send_to_the_last_end() -> None:
    early, late = answer(sent_s=0.0, last_s=2.0), answer(sent_s=0.1, first_s=2.0, last_s=4.0)
    assert figure(by_name["streams-4"], [burst(early, late)]) == 256 / 4


def test_an_answer_of_another_length_ends_the_bench() -> None:
    with pytest.raises(BenchError, match="127 tokens came instead of 128"):
        check_lengths(by_name["streams-1"], burst(answer(completion_tokens=127)))


def test_what_makes_figures_doubtful_is_said_once() -> None:
    odd = answer(prompt_tokens=200, cached_tokens=100, completion_tokens=128, events=30)
    complaints = check_lengths(by_name["decode"], burst(odd, odd))
    assert len(complaints) == 3
    assert any("counted 200 tokens instead of 256" in complaint for complaint in complaints)
    assert any("100 prompt tokens came from a cache" in complaint for complaint in complaints)
    assert any("30 events for 128 tokens" in complaint for complaint in complaints)


def test_a_sound_burst_has_no_complaints() -> None:
    assert check_lengths(by_name["decode"], burst(answer())) == []


@pytest.mark.parametrize("workload", FULL, ids=lambda workload: workload.name)
def test_every_workload_has_its_metric(workload: Workload) -> None:
    assert workload.name in {metric.name for metric in METRICS}
