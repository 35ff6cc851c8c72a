"""Runs scenes: every side in turn, round after round, kept after each scene. What fails is told, the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, servers
from bench.proof.record import Record, Sample, SceneRecord
from bench.proof.scene import Found, Scene, Sizes
from bench.proof.scenes import PLACES
from bench.proof.sides import RESTLESS, Sides
from bench.rounds import FOREIGN_CORES, rotated

#: A side that failed so often in one scene is not asked any more.
_FAILURES = 2


@dataclass
class Performance:
    """rounds: of every scene, None for as many as each says."""

    record: Record
    path: Path
    sides: Sides
    sizes: Sizes
    say: Callable[[str], None]
    rounds: int | None = None

    def run(self, scenes: Sequence[Scene]) -> None:
        """Raises nothing but KeyboardInterrupt and SystemExit, with what there is so far saved."""
        try:
            for scene in scenes:
                self._play(scene)
        finally:
            self.sides.only(())

    def _play(self, scene: Scene) -> None:
        began = time.monotonic()
        self.say(f"{scene.name}: {scene.about}")
        self.sides.only(scene.sides)
        kept = SceneRecord(name=scene.name, when=now(), commit=servers.commit(), rounds=self.rounds or scene.rounds)
        self.record.scenes[scene.name] = kept
        failures = dict.fromkeys(scene.sides, 0)
        for turn in range(kept.rounds):
            for name in rotated(scene.sides, turn):
                if failures[name] < _FAILURES and not self._measure(scene, kept, name, turn):
                    failures[name] += 1
        kept.seconds = round(time.monotonic() - began, 1)
        self.record.save(self.path)

    def _measure(self, scene: Scene, kept: SceneRecord, name: str, turn: int) -> bool:
        """Whether it gave figures. Anything that a side does wrong ends only its own part."""
        try:
            side = self.sides.get(name)
            process = side.up().process
            self.record.facts.setdefault(name, {}).update(side.facts)
            clock = machine.CpuClock(process, [])
            found = scene.measure(side, scene.ask(self.sizes, turn, PLACES[scene.name]))
            used = clock.read()
            if name in RESTLESS:
                side.down()
        except Exception as error:
            kept.failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
            self.say(f"  {name}: FAILED: {kept.failed[name]}")
            self.sides.drop(name)
            return False
        kept.samples.append(Sample(
            side=name, round=turn, figures=found.figures, server_cores=round(used.server_cores, 3),
            foreign_cores=round(used.foreign_cores, 3)))
        kept.notes += [note for note in found.notes if note not in kept.notes]
        self.say(f"  round {turn + 1}  {name:<15} {_shown(found)}  others {used.foreign_cores:.2f} cores")
        return True


def _shown(found: Found) -> str:
    return ", ".join(f"{figure} {value:.4g}" for figure, value in found.figures.items())


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def disturbed(record: Record) -> int:
    """Samples during which others used the machine; scenes that make such use themselves are left out."""
    return sum(sample.foreign_cores > FOREIGN_CORES for name, scene in record.scenes.items() if name not in _OWN_NOISE
               for sample in scene.samples)


#: Scenes whose own children, or servers that are ended meanwhile, look foreign.
_OWN_NOISE = ("bandwidth", "foreign", "rotation", "restart")
