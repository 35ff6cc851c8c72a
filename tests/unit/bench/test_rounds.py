from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from bench import machine
from bench.client import Burst
from bench.rounds import Bench, Side
from bench.servers import Running
from bench.workloads import Workload
from tests.unit.bench.making import answer, burst

pytestmark = pytest.mark.unit

SHORT = Workload("streams-1", "chat", prompt_tokens=8, answer_tokens=2)
FOUR = Workload("streams-4", "chat", prompt_tokens=8, answer_tokens=2, streams=4)


@dataclass
class Stage:
    """Sides that answer at once, and a record of who was asked what."""

    asked: list[tuple[str, str, int]] = field(default_factory=list)
    up: set[str] = field(default_factory=set)
    up_when_asked: list[set[str]] = field(default_factory=list)

    def side(self, name: str) -> Side:
        def ask(running: Running, workload: Workload, first: int) -> Burst:
            assert name in self.up
            if workload in (SHORT, FOUR):
                self.asked.append((name, workload.name, first))
                self.up_when_asked.append(set(self.up))
            return burst(answer(prompt_tokens=8, completion_tokens=workload.answer_tokens, events=2))

        return Side(name, self._launch(name), ask)

    def _launch(self, name: str) -> Callable[[], Running]:
        stage = self

        class Stopping(Running):
            def stop(self) -> None:
                stage.up.discard(name)

        def launch() -> Running:
            self.up.add(name)
            return Stopping("http://127.0.0.1:9", name, None)

        return launch


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


def test_sides_take_turns_and_the_first_changes_every_round() -> None:
    stage = Stage()
    Bench([stage.side("a"), stage.side("b")], [SHORT], lambda _: None).run(3)
    assert [name for name, _, _ in stage.asked] == ["a", "b", "b", "a", "a", "b"]


def test_both_sides_get_the_same_prompts_and_nobody_gets_one_twice() -> None:
    stage = Stage()
    Bench([stage.side("a"), stage.side("b")], [SHORT, FOUR], lambda _: None).run(2)
    mine = [(workload, first) for name, workload, first in stage.asked if name == "a"]
    theirs = [(workload, first) for name, workload, first in stage.asked if name == "b"]
    assert sorted(mine) == sorted(theirs)
    assert mine == [("streams-1", 0), ("streams-4", 1), ("streams-1", 5), ("streams-4", 6)]


def test_servers_are_stopped_at_the_end_and_after_a_failure() -> None:
    stage = Stage()
    failing = stage.side("b")
    asked = failing.ask

    def fail(running: Running, workload: Workload, first: int) -> Burst:
        if workload is SHORT:
            raise RuntimeError("gone")
        return asked(running, workload, first)

    failing.ask = fail
    with pytest.raises(RuntimeError, match="gone"):
        Bench([stage.side("a"), failing], [SHORT], lambda _: None).run(1)
    assert stage.up == set()


def test_a_side_that_spins_while_idle_is_not_kept_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    clock = machine.CpuUse(server_cores=0.5, client_cores=0, foreign_cores=0)
    monkeypatch.setattr(machine.CpuClock, "read", lambda _: clock)
    bench = Bench([stage.side("a"), stage.side("b")], [SHORT], lambda _: None)
    bench.run(1)
    assert stage.up_when_asked == [{"a"}, {"b"}]
    assert "a uses 0.50 cores while idle: sides are stopped when not measured" in bench.complaints
    assert stage.up == set()


def test_sides_that_rest_when_idle_stay_up_all_the_time() -> None:
    stage = Stage()
    Bench([stage.side("a"), stage.side("b")], [SHORT], lambda _: None).run(2)
    assert stage.up_when_asked == [{"a", "b"}] * 4
