from __future__ import annotations

import pytest

from bench.proof.judge import judge
from bench.proof.rows import ROWS, Row
from bench.proof.scenes import SCENES
from bench.proof.sides import TITLES
from tests.unit.bench.proof.making import record, samples, scene

pytestmark = pytest.mark.unit

RATE = Row("rate", "streams", "rate", "tok/s", "higher", "edged", ("llama-default", "llama-tuned"), 2.0)
LATENCY = Row("latency", "structured", "seconds", "s", "lower", "edged", ("llama-default", "llama-tuned"), 0.6)
GAP = Row("gap", "long-prompt", "gap-ms", "ms", "lower", "edged", ("llama-default",), 300, of="figure")
ROOFLINE = Row("roofline", "single", "roofline", "x", "higher", "edged", ("llama-k_m",), 0.7, of="figure")


def test_the_peer_is_the_one_whose_own_figure_is_best() -> None:
    kept = record(
        scene("streams", samples("edged", "rate", 300, 310, 320), samples("llama-default", "rate", 100, 100, 100),
              samples("llama-tuned", "rate", 150, 150, 160)),
        scene("structured", samples("edged", "seconds", 1, 1, 1), samples("llama-default", "seconds", 2, 2, 2),
              samples("llama-tuned", "seconds", 4, 4, 4)))
    assert (judge(kept, RATE).best, judge(kept, LATENCY).best) == ("llama-tuned", "llama-default")


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_its_verdict_follows_the_goal() -> None:
    kept = record(scene(
        "streams", samples("edged", "rate", 200, 330, 320), samples("llama-tuned", "rate", 100, 150, 200)))
    one = judge(kept, RATE)
    assert (one.value, one.verdict, one.low, one.high, one.rounds) == (2.0, "met", 1.6, 2.2, 3)
    assert not one.sure


def test_a_lower_figure_meets_a_goal_from_below() -> None:
    fast = record(scene("structured", samples("edged", "seconds", 1, 1), samples("llama-tuned", "seconds", 2, 2)))
    slow = record(scene("structured", samples("edged", "seconds", 3, 3), samples("llama-tuned", "seconds", 4, 4)))
    assert (judge(fast, LATENCY).verdict, judge(slow, LATENCY).verdict) == ("met", "missed")


def test_a_goal_of_the_own_figure_needs_no_peer() -> None:
    kept = record(scene("long-prompt", samples("edged", "gap-ms", 120, 90)))
    one = judge(kept, GAP)
    assert (one.value, one.verdict, one.peer) == (105, "met", None)
    assert "llama-server Q4_0: not measured" in one.reason


def test_a_row_whose_subject_failed_says_why() -> None:
    kept = record(scene("streams", samples("llama-tuned", "rate", 100), failed={"edged": "BenchError: answered 500"}))
    one = judge(kept, RATE)
    assert (one.verdict, one.value) == ("failed", None)
    assert "answered 500" in one.reason


def test_a_row_without_any_peer_fails_and_is_not_met() -> None:
    kept = record(scene("streams", samples("edged", "rate", 100), failed={"llama-tuned": "BenchError: did not start"}))
    one = judge(kept, RATE)
    assert one.verdict == "failed"
    assert "did not start" in one.reason


def test_only_rounds_that_both_sides_have_are_compared() -> None:
    kept = record(scene("streams", samples("edged", "rate", 300, 100), samples("llama-tuned", "rate", 100)))
    assert (judge(kept, RATE).value, judge(kept, RATE).rounds) == (3.0, 1)


def test_the_roofline_counts_the_bytes_of_the_form_that_a_side_serves() -> None:
    kept = record(scene("bandwidth", samples("machine", "gb-s", 10, 20)),
                  scene("single", samples("edged", "decode", 100), samples("llama-k_m", "decode", 50)))
    one = judge(kept, ROOFLINE)
    assert one.value == pytest.approx(100 * 127e6 / 20e9)
    assert one.peer == pytest.approx(50 * 80e6 / 20e9)


def test_without_a_bandwidth_there_is_no_roofline() -> None:
    assert judge(record(scene("single", samples("edged", "decode", 100))), ROOFLINE).verdict == "failed"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.title}, {row.subject}")
def test_every_row_compares_sides_that_its_scene_asks(row: Row) -> None:
    [asked] = [each for each in SCENES if each.name == row.scene]
    assert {row.subject, *row.peers} <= set(asked.sides) <= set(TITLES)


def test_no_two_rows_say_the_same_or_are_called_the_same() -> None:
    assert len({row.title for row in ROWS}) == len(ROWS)
    assert len({(row.scene, row.figure, row.subject, row.peers, row.goal) for row in ROWS}) == len(ROWS)
