from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.pace import MIN_PIECE_TOKENS, PIECE_S, Pace

pytestmark = pytest.mark.unit


def test_a_piece_takes_its_time_at_the_measured_rate() -> None:
    assert Pace(1000).piece_tokens == int(1000 * PIECE_S)


def test_it_follows_the_rate_up_and_down() -> None:
    pace = Pace(1000)
    for _ in range(40):
        pace.observe(100, 0.1 * 4)
    assert pace.piece_tokens == pytest.approx(250 * PIECE_S, rel=0.05)
    for _ in range(40):
        pace.observe(100, 0.1)
    assert pace.piece_tokens == pytest.approx(1000 * PIECE_S, rel=0.05)


def test_one_step_that_was_disturbed_does_not_count_for_much() -> None:
    pace = Pace(1000)
    pace.observe(150, 10.0)
    assert pace.piece_tokens >= 0.79 * 150


def test_a_very_slow_machine_still_goes_forward() -> None:
    pace = Pace(0.5)
    assert pace.piece_tokens == MIN_PIECE_TOKENS


@given(st.lists(st.tuples(st.integers(0, 512), st.sampled_from([0.0, 1e-9, 1e-4, 0.1, 30.0])), max_size=50))
def test_no_measurement_stops_it(measured: list[tuple[int, float]]) -> None:
    pace = Pace(100)
    for tokens, seconds in measured:
        pace.observe(tokens, seconds)
    assert pace.piece_tokens >= MIN_PIECE_TOKENS
