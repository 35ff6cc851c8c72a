"""Which model is expected back first, told by made-up histories; and that it survives a restart."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.daemon.habits import HALF_LIFE_S, WRITE_EVERY_S, Habit, Habits, rate, use
from edged.daemon.policy import Evict, Live, Phase, Want, plan
from tests.unit.daemon.test_remembered import DAMAGE

pytestmark = pytest.mark.unit

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def used(moments: Iterable[float]) -> Habit | None:
    habit: Habit | None = None
    for moment in sorted(moments):
        habit = use(habit, moment)
    return habit


def every(step_s: float, start_s: float, end_s: float) -> list[float]:
    return [start_s + number * step_s for number in range(int((end_s - start_s) / step_s))]


def first_to_go(now_s: float, **histories: Iterable[float]) -> str:
    """The victim where one of these idle models of one size must go."""
    live = [Live(key=key, held_bytes=10, phase=Phase.READY, used=max(moments), rate=rate(used(moments), now_s))
            for key, moments in ((key, list(moments)) for key, moments in histories.items())]
    (decision,) = plan([Want(key="wanted", ticket=1, need_bytes=10, least_bytes=10)], live, 10 * len(live))
    assert isinstance(decision, Evict)
    (victim,) = decision.victims
    return victim


def test_a_model_used_every_ten_minutes_beats_one_that_was_used_once_just_now() -> None:
    now_s = 2 * HOUR
    assert first_to_go(now_s, regular=every(10 * MINUTE, 0, now_s - 5 * MINUTE), once=[now_s - 1]) == "once"


def test_a_nightly_job_does_not_push_out_the_model_of_the_day() -> None:
    """It asks some models a hundred times each at three at night, when nobody has asked for the other for hours."""
    daily = [moment for day in range(7) for moment in every(20 * MINUTE, day * DAY + 8 * HOUR, day * DAY + 19 * HOUR)]
    nightly = [moment for day in range(8) for moment in every(2, day * DAY + 3 * HOUR, day * DAY + 3 * HOUR + 200)]
    assert first_to_go(7 * DAY + 3 * HOUR + 210, daily=daily, nightly=nightly) == "nightly"


def test_a_burst_of_requests_is_no_habit() -> None:
    now_s = 3 * HOUR
    burst = every(0.1, now_s - 60, now_s - 30)
    assert first_to_go(now_s, burst=burst, regular=every(30 * MINUTE, 0, now_s)) == "burst"


def test_what_nobody_wants_any_more_goes_before_what_is_wanted_now_and_then() -> None:
    now_s = 30 * HOUR
    assert first_to_go(now_s, left=every(MINUTE, 0, 2 * HOUR), seldom=every(3 * HOUR, 0, now_s)) == "left"


def test_models_without_a_habit_go_by_their_last_use() -> None:
    assert first_to_go(100, old=[10], new=[90]) == "old"
    never = [Live(key=key, held_bytes=10, phase=Phase.READY, used=at) for key, at in (("old", 1.0), ("new", 2.0))]
    assert plan([Want(key="x", ticket=1, need_bytes=10, least_bytes=10)], never, 20) == [Evict("x", ("old",))]


def test_of_two_models_used_alike_the_one_goes_that_is_quicker_to_load_for_its_size() -> None:
    slow = Live(key="slow", held_bytes=10, phase=Phase.READY, used=1, rate=0.01, load_s=60)
    quick = Live(key="quick", held_bytes=10, phase=Phase.READY, used=2, rate=0.01, load_s=2)
    assert plan([Want(key="x", ticket=1, need_bytes=10, least_bytes=10)], [slow, quick], 20) == [
        Evict("x", ("quick",))]


@given(st.lists(st.floats(0, 10 * DAY), min_size=1, max_size=50), st.floats(0, 10 * DAY))
def test_a_rate_is_bounded_by_the_time_since_the_last_use_and_falls_while_nothing_comes(
    moments: list[float], later_s: float,
) -> None:
    habit = used(moments)
    now_s = max(moments) + later_s
    assert 0 <= rate(habit, now_s) <= 2 / max(1.0, later_s) + 1e-9
    assert rate(habit, now_s + HOUR) <= rate(habit, now_s) + 1e-12


def test_habits_survive_a_restart_on_another_monotonic_clock(tmp_path: Path) -> None:
    file = tmp_path / "habits.json"
    habits = Habits(file, 1000.0)
    for moment in every(HOUR, 1000.0, 1000.0 + 5 * HOUR):
        habits.used("m", moment)
    before = habits.rate("m", 1000.0 + 5 * HOUR)
    habits.write(1000.0 + 5 * HOUR)
    again = Habits(file, 7.0)
    assert again.rate("m", 7.0) == pytest.approx(before, rel=0.01)
    assert again.rate("other", 7.0) == 0


def test_a_clock_that_was_set_back_or_a_damaged_file_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "habits.json"
    habits = Habits(file, 0.0)
    habits.used("m", 0.0)
    habits.write(0.0)
    written = time.time()
    monkeypatch.setattr(time, "time", lambda: written - 5 * DAY)
    assert Habits(file, 0.0).rate("m", 0.0) == pytest.approx(habits.rate("m", 0.0), rel=0.01)
    monkeypatch.setattr(time, "time", lambda: written + 9000 * DAY)
    assert Habits(file, 0.0).rate("m", 0.0) > 0
    for damaged in (b"{", *DAMAGE):
        file.write_bytes(damaged)
        assert Habits(file, 0.0).rate("m", 0.0) == 0
    Habits(tmp_path / "missing" / "habits.json", 0.0).write(1.0)


def test_the_file_is_written_seldom_and_forgets_what_has_faded(tmp_path: Path) -> None:
    file = tmp_path / "habits.json"
    habits = Habits(file, 0.0)
    habits.used("m", 1.0)
    assert not file.exists()
    habits.used("m", WRITE_EVERY_S)
    first = file.stat().st_mtime_ns
    habits.used("m", WRITE_EVERY_S + 1)
    assert file.stat().st_mtime_ns == first
    habits.used("other", 20 * HALF_LIFE_S)
    assert list(tmp_path.iterdir()) == [file]
    assert b'"other"' in file.read_bytes()
    assert b'"m"' not in file.read_bytes()
