"""What a search for options keeps, of processes whose rates are made up and whose time is the test's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from edged.daemon.tuning import Report, Tuner
from edged.daemon.turns import Turns
from edged.errors import EdgedError, LoadFailed
from edged.hardware.facts import Cpu, Memory
from edged.hardware.measured import Measured
from edged.hardware.place import Place
from edged.hardware.tuning import Part
from edged.ipc.trials import Trial, TrialResult
from edged.store import Store
from edged.store.entries import ModelEntry
from edged.types import EngineName
from tests.worker.daemon.rig import PLAIN, install

pytestmark = pytest.mark.unit

#: How many times as long a request takes with these options and threads.
Cost = Callable[[dict[str, Any]], float]


@dataclass
class Processes:
    """loaded: what each process was loaded with; most: at once. A load takes a second of the clock, a part what it was
    asked to take."""

    cost: Cost
    sets_threads: bool = True
    resident_bytes: int = 100 << 20
    failing: dict[str, EdgedError] = field(default_factory=dict)
    loaded: list[dict[str, Any]] = field(default_factory=list)
    now_s: float = 0.0
    alive: int = 0
    most: int = 0

    @contextlib.asynccontextmanager
    async def open(self, trial: Trial, command: Sequence[str]) -> AsyncIterator[Turns]:
        said = {"threads": trial.spec.threads, **trial.spec.options}
        for name, error in self.failing.items():
            if name in said:
                raise error
        self.now_s += 1
        self.loaded.append(said)
        self.alive += 1
        self.most = max(self.most, self.alive)
        try:
            yield cast(Turns, MadeUp(self, said))
        finally:
            self.alive -= 1


class MadeUp:
    def __init__(self, processes: Processes, said: dict[str, Any]) -> None:
        self._processes, self._said = processes, said
        self.result = TrialResult(device="cpu", sets_threads=processes.sets_threads,
                                  resident_bytes=processes.resident_bytes)

    async def measure(
        self, parts: Sequence[Part], seconds: float, threads: tuple[int, int] | None = None,
    ) -> dict[Part, float]:
        said = dict(self._said)
        if threads is not None:
            said |= {"threads": threads[0], "batch_threads": threads[1]}
        self._processes.now_s += seconds * len(parts)
        return {part: 100 / self._processes.cost(said) for part in parts}


@dataclass
class Search:
    report: Report
    processes: Processes
    measured: Measured
    digest: str

    @property
    def chosen(self) -> dict[str, Any]:
        return self.report.tuning.chosen

    def notes(self, option: str) -> set[str]:
        return {one.note for one in self.report.tried if one.option == option}


async def search(
    folder: Path, processes: Processes, *, engine: EngineName = "llama", entry: ModelEntry | None = None,
    seconds: float = 1000.0, available: int = 8 << 30,
) -> Search:
    store = Store(folder / "home")
    manifest = install(store, "m")
    measured = Measured(store.home, "f" * 12)
    facts = replace(PLAIN, memory=Memory(total=16 << 30, available=available),
                    cpu=Cpu(model="c", physical=4, logical=4, usable=4, fast=4))
    tuner = Tuner(store, entry or ModelEntry(name="m"), facts, measured, open_turns=processes.open,
                  trial_command=("python",), seconds=seconds, clock=lambda: processes.now_s)
    report = await tuner.tune(manifest, Place(engine, "cpu", 4, None))
    assert processes.alive == 0
    assert measured.get(manifest.digest, "cpu").tuning == report.tuning
    return Search(report, processes, measured, manifest.digest)


def times(**factors: dict[Any, float]) -> Cost:
    def cost(said: dict[str, Any]) -> float:
        product = 1.0
        for name, by_value in factors.items():
            product *= by_value.get(said.get(name), 1.0)
        return product

    return cost


async def test_options_that_are_faster_are_kept_together(tmp_path: Path) -> None:
    found = await search(tmp_path, Processes(times(
        threads={3: 0.8}, batch_threads={2: 0.9}, key_type={"f16": 0.7}, ubatch={128: 1.5, 256: 1.5})))
    assert found.chosen == {"threads": 3, "batch_threads": 2, "key_type": "f16"}
    assert found.report.tuning.gain == pytest.approx(1 / (0.8 * 0.9 * 0.7))
    assert found.notes("ubatch") == {"slower or no faster"}
    assert found.processes.most == 2


async def test_prompts_keep_their_threads_when_decoding_has_fewer(tmp_path: Path) -> None:
    found = await search(tmp_path, Processes(times(threads={2: 0.5})))
    assert found.chosen == {"threads": 2, "batch_threads": 4}


async def test_an_engine_whose_threads_are_fixed_is_loaded_for_each_number(tmp_path: Path) -> None:
    found = await search(tmp_path, Processes(times(threads={2: 0.5}), sets_threads=False), engine="ort")
    assert found.chosen == {"threads": 2}
    assert {said["threads"] for said in found.processes.loaded} == {2, 3, 4}
    assert {said["spin_us"] for said in found.processes.loaded if "spin_us" in said} == {0, 100, 1000}


async def test_defaults_that_nothing_beats_stay(tmp_path: Path) -> None:
    found = await search(tmp_path, Processes(times()))
    assert found.chosen == {}
    assert found.report.tuning.gain == 1.0
    assert {one.note for one in found.report.tried} == {"slower or no faster"}


async def test_what_is_no_faster_in_the_end_is_not_kept(tmp_path: Path) -> None:
    """The clients of the last race find the defaults as fast: what won before won by chance."""
    processes = Processes(times())
    processes.cost = lambda said: 0.8 if said.get("key_type") == "f16" and len(processes.loaded) < 9 else 1.0
    found = await search(tmp_path, processes)
    assert found.chosen == {}
    assert found.notes("key_type") == {"in the end no faster than the defaults"}


async def test_what_the_operator_said_is_kept_to(tmp_path: Path) -> None:
    entry = ModelEntry(name="m", threads=2, options={"key_type": "q8_0"})
    found = await search(tmp_path, Processes(times(threads={3: 0.1}, key_type={"f16": 0.1})), entry=entry)
    assert found.chosen == {}
    assert {said["threads"] for said in found.processes.loaded} == {2}
    assert {said["key_type"] for said in found.processes.loaded} == {"q8_0"}
    assert not {one.option for one in found.report.tried} & {"threads", "batch_threads", "key_type"}


async def test_a_value_that_fails_is_told_and_the_rest_is_tried(tmp_path: Path) -> None:
    found = await search(tmp_path, Processes(
        times(key_type={"f16": 0.5}), failing={"flash_attention": LoadFailed("no kernel for that")}))
    assert found.notes("flash_attention") == {"it failed: no kernel for that"}
    assert found.chosen == {"key_type": "f16"}


async def test_a_model_that_fits_once_is_tuned_within_its_process(tmp_path: Path) -> None:
    processes = Processes(times(threads={2: 0.5}), resident_bytes=4 << 30)
    found = await search(tmp_path, processes)
    assert found.chosen == {"threads": 2, "batch_threads": 4}
    assert (processes.most, len(processes.loaded)) == (1, 1)
    assert found.notes("key_type") == {"there is no memory to load it twice"}


async def test_time_that_is_up_leaves_the_rest_and_is_kept_to(tmp_path: Path) -> None:
    found = await search(tmp_path, Processes(times(threads={2: 0.5})), seconds=20)
    assert found.chosen == {"threads": 2, "batch_threads": 4}
    assert found.notes("ubatch") == {"there was no time left"}
    assert found.processes.now_s < 22
