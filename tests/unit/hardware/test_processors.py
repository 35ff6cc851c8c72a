"""Who uses the processors: from the counters of made-up machines and containers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware.processors import Limit, Processors, Reading, Share, lacking, shares
from tests.unit.hardware import boxes

pytestmark = pytest.mark.unit


def stat(*ticks: tuple[int, int]) -> str:
    """user and steal of each processor; what idles or waits for disks counts for nothing."""
    lines = [f"cpu{number} {user} 0 0 777 55 0 0 {steal} 0 0" for number, (user, steal) in enumerate(ticks)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5", "procs_running 3", ""])


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """CPU seconds of this process, and the clock."""
    told = {"own": 100.0, "now": 50.0}
    monkeypatch.setattr("edged.hardware.processors.time.process_time", lambda: told["own"])
    monkeypatch.setattr("edged.hardware.processors.time.monotonic", lambda: told["now"])
    monkeypatch.setattr("edged.hardware.processors.os.sysconf", lambda name: 100)
    return told


def between(root: Path, own: dict[str, float], before: dict[str, str], after: dict[str, str], *,
            own_s: float, seconds: float) -> list[Share]:
    boxes.lay_out(root, before)
    machine = Processors(root=root)
    first = machine.read()
    boxes.lay_out(root, after)
    own["own"] += own_s
    own["now"] += seconds
    return [Share(share.cores, round(share.foreign, 6)) for share in shares(first, machine.read())]


def test_what_others_use_is_what_is_used_without_this_process(tmp_path: Path, own: dict[str, float]) -> None:
    found = between(tmp_path, own, {"proc/stat": stat((1000, 0), (2000, 0))}, {"proc/stat": stat((1040, 0), (2040, 0))},
                    own_s=0.5, seconds=0.4)
    assert found == [Share(cores=2, foreign=0.75)]


def test_time_that_another_guest_of_the_host_took_is_foreign(tmp_path: Path, own: dict[str, float]) -> None:
    found = between(tmp_path, own, {"proc/stat": stat((0, 0), (0, 0))}, {"proc/stat": stat((50, 0), (20, 30))},
                    own_s=0.7, seconds=0.5)
    assert found[0].foreign == pytest.approx(0.6)


def test_counters_that_lag_behind_make_no_negative_load(tmp_path: Path, own: dict[str, float]) -> None:
    found = between(tmp_path, own, {"proc/stat": stat((0, 0))}, {"proc/stat": stat((20, 0))}, own_s=0.31, seconds=0.3)
    assert found == [Share(cores=1, foreign=0)]


CONTAINER = {"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "200000 100000\n"}


def test_in_a_container_the_quota_is_shared_with_its_own_processes_only(tmp_path: Path, own: dict[str, float]) -> None:
    """Eight processors of which the container may use two; a sister process in it uses one."""
    found = between(
        tmp_path, own,
        {"proc/stat": stat(*[(0, 0)] * 8), **CONTAINER, "sys/fs/cgroup/box/cpu.stat": "usage_usec 5000000\n"},
        {"proc/stat": stat(*[(10, 0)] * 8), **CONTAINER, "sys/fs/cgroup/box/cpu.stat": "usage_usec 5600000\n"},
        own_s=0.4, seconds=0.2)
    assert found == [Share(cores=8, foreign=2), Share(cores=2, foreign=1)]
    assert lacking(found, 2) == pytest.approx(1)


def test_the_groups_of_version_1_count_in_nanoseconds_beside_the_quota(tmp_path: Path, own: dict[str, float]) -> None:
    group = {"proc/self/cgroup": "4:cpu,cpuacct:/box\n2:memory:/box\n", "sys/fs/cgroup/cpu/box/tasks": "",
             "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "150000\n",
             "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n", "proc/stat": stat((0, 0), (0, 0))}
    found = between(
        tmp_path, own, {**group, "sys/fs/cgroup/cpu/box/cpuacct.usage": "1000000000\n"},
        {**group, "sys/fs/cgroup/cpu/box/cpuacct.usage": "1500000000\n"}, own_s=0.25, seconds=0.5)
    assert found[1] == Share(cores=1.5, foreign=0.5)


def test_a_limit_that_comes_or_goes_between_two_readings_says_nothing() -> None:
    before = Reading(0.0, 0.0, (Limit(2, 1.0),))
    assert shares(before, Reading(1.0, 0.0, (Limit(4, 2.0),))) == []
    assert shares(before, Reading(1.0, 0.0, (Limit(2, 2.0), Limit(1, 0.0)))) == []
    assert shares(before, Reading(0.0, 0.0, (Limit(2, 2.0),))) == []


@pytest.mark.parametrize(("found", "threads", "expected"), [
    ([Share(2, 1.0)], 2, 1.0),
    # Hyper-threads: four threads on eight processors leave room for four busy ones.
    ([Share(8, 3.9)], 4, 0.0),
    ([Share(8, 5.0)], 4, 1.0),
    # An operator who wants more threads than there are processors has them, and loses what others take.
    ([Share(2, 0.0)], 4, 0.0),
    ([Share(2, 1.0)], 4, 1.0),
    ([Share(64, 10.0), Share(4, 0.2)], 4, 0.2),
    ([], 4, 0.0),
])
def test_what_lacks_is_what_others_take_beyond_what_is_left_over(
    found: list[Share], threads: int, expected: float
) -> None:
    assert lacking(found, threads) == pytest.approx(expected)


@given(cores=st.integers(1, 256), threads=st.integers(1, 256), foreign=st.floats(0, 256))
def test_no_more_lacks_than_others_take(cores: int, threads: int, foreign: float) -> None:
    assert 0 <= lacking([Share(cores, foreign)], threads) <= foreign


def test_this_machine_is_read() -> None:
    machine = Processors()
    first = machine.read()
    while (second := machine.read()).at_s - first.at_s < 0.05:
        pass
    found = shares(first, second)
    assert found[0].cores >= 1
    assert second.own_s > first.own_s
