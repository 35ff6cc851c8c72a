from __future__ import annotations

from pathlib import Path

import pytest

from bench.client import BenchError
from bench.proof import record as records
from bench.proof.perform import Performance, disturbed
from bench.proof.record import Sample
from bench.proof.scene import QUICK, Ask, Found, Scene
from bench.proof.sides import Sides
from bench.rounds import Side
from bench.servers import Running
from tests.unit.bench.making import answer, burst
from tests.unit.bench.proof.making import form, record, scene

pytestmark = pytest.mark.unit


class Stage(Sides):
    """Sides that answer at once. up: those that run now. broken: those that do not start."""

    def __init__(self) -> None:
        super().__init__([form(None)], 2)
        self.up: set[str] = set()
        self.broken: set[str] = set()

    def _make(self, name: str) -> Side:
        stage = self

        class Stopping(Running):
            def stop(self) -> None:
                stage.up.discard(name)

        def launch() -> Running:
            if name in stage.broken:
                raise BenchError("it did not start")
            stage.up.add(name)
            return Stopping("http://127.0.0.1:9", name, None)

        return Side(name, launch, lambda running, workload, first: burst(answer()))


def performance(tmp_path: Path, stage: Stage) -> Performance:
    return Performance(record(), tmp_path / "results" / "run.json", stage, QUICK, lambda said: None)


def counting(side: Side, ask: Ask) -> Found:
    return Found({"number": ask.number}, ("a note",))


def of(name: str, *sides: str, rounds: int = 2) -> Scene:
    return Scene(name, "what it is", sides, counting, lambda ask: [], rounds=rounds)


def test_every_side_is_asked_in_every_round_the_first_one_in_turn_and_all_the_same(tmp_path: Path) -> None:
    running = performance(tmp_path, Stage())
    running.run([of("single", "a", "b")])
    kept = running.record.scenes["single"]
    assert [(one.side, one.round) for one in kept.samples] == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert kept.series("a", "number") == kept.series("b", "number")
    assert kept.notes == ["a note"]


def test_sides_that_a_scene_does_not_ask_are_ended_and_all_are_at_the_end(tmp_path: Path) -> None:
    stage, seen = Stage(), []

    def look(side: Side, ask: Ask) -> Found:
        seen.append(set(stage.up))
        return Found({})

    running = performance(tmp_path, stage)
    running.run([of("single", "a", "b"), Scene("streams", "", ("b", "c"), look, lambda ask: [], rounds=1)])
    assert seen == [{"b"}, {"b", "c"}]
    assert stage.up == set()


def test_a_side_that_may_not_rest_is_ended_after_each_measurement(tmp_path: Path) -> None:
    stage, seen = Stage(), []

    def look(side: Side, ask: Ask) -> Found:
        seen.append(set(stage.up))
        return Found({})

    performance(tmp_path, stage).run([Scene("streams", "", ("foundry", "a"), look, lambda ask: [], rounds=1)])
    assert seen == [{"foundry"}, {"a"}]


def test_a_side_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    stage = Stage()
    stage.broken = {"a"}
    running = performance(tmp_path, stage)
    running.run([of("single", "a", "b"), of("streams", "b")])
    kept = running.record.scenes["single"]
    assert kept.failed == {"a": "BenchError: it did not start"}
    assert [one.side for one in kept.samples] == ["b", "b"]
    assert "streams" in running.record.scenes


def test_results_are_there_after_every_scene_even_if_the_run_is_ended(tmp_path: Path) -> None:
    def ended(side: Side, ask: Ask) -> Found:
        raise KeyboardInterrupt

    stage = Stage()
    running = performance(tmp_path, stage)
    with pytest.raises(KeyboardInterrupt):
        running.run([of("single", "a"), Scene("streams", "", ("a",), ended, lambda ask: [])])
    assert "single" in records.load(running.path).scenes
    assert stage.up == set()


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    kept = record(scene("single", [Sample(side="a", round=0, figures={"x": 1.5}, server_cores=1, foreign_cores=0)]))
    kept.save(tmp_path / "run.json")
    assert records.load(tmp_path / "run.json") == kept


def test_use_by_others_is_counted_but_not_where_the_scene_itself_makes_it() -> None:
    busy = [Sample(side="a", round=0, figures={}, server_cores=1, foreign_cores=0.5)]
    assert disturbed(record(scene("single", busy), scene("foreign", busy))) == 1
