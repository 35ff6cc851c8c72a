"""Whether drafts pay, from made-up ticks."""

from __future__ import annotations

import pytest

from edged.worker.payoff import FIRST_PAUSE_TICKS, JUDGED_TICKS, LONGEST_PAUSE_TICKS, Payoff

pytestmark = pytest.mark.unit


def ticks(payoff: Payoff, tokens: list[int], seconds: float, *, drafted: bool, count: int = JUDGED_TICKS) -> None:
    for _ in range(count):
        payoff.observe(tokens, seconds, drafted=drafted)


def test_drafts_are_tried_until_ticks_have_shown_that_they_do_not_pay() -> None:
    payoff = Payoff()
    assert payoff.pays(8)
    ticks(payoff, [1] * 8, 0.020, drafted=False)
    ticks(payoff, [2, *[1] * 7], 0.030, drafted=True)
    assert not payoff.pays(8)
    assert payoff.pays(1)


def test_a_stream_that_gains_while_seven_wait_longer_is_no_gain() -> None:
    payoff = Payoff()
    ticks(payoff, [1] * 8, 0.020, drafted=False)
    ticks(payoff, [9, *[1] * 7], 0.030, drafted=True)
    assert not payoff.pays(8)


def test_where_all_gain_drafts_go_on() -> None:
    payoff = Payoff()
    ticks(payoff, [1] * 8, 0.020, drafted=False)
    ticks(payoff, [3] * 8, 0.040, drafted=True, count=100)
    assert payoff.pays(8)


def test_each_time_they_did_not_pay_the_pause_is_longer() -> None:
    payoff = Payoff()
    pauses = []
    for _ in range(8):
        ticks(payoff, [1, 1], 0.010, drafted=False)
        ticks(payoff, [1, 1], 0.020, drafted=True)
        pauses.append(0)
        while not payoff.pays(2):
            payoff.observe([1, 1], 0.010, drafted=False)
            pauses[-1] += 1
    assert pauses[0] == FIRST_PAUSE_TICKS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_TICKS


def test_another_text_alone_is_judged_by_itself() -> None:
    payoff = Payoff()
    for rows in (1, 2):
        ticks(payoff, [1] * rows, 0.010, drafted=False)
        ticks(payoff, [1] * rows, 0.020, drafted=True)
    payoff.renew()
    assert payoff.pays(1)
    assert not payoff.pays(2)
