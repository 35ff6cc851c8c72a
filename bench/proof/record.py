"""What is kept of a run: every figure of every side and round, in one JSON file that later runs can add scenes to."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from bench.proof.forms import Form
from bench.servers import ROOT


class Sample(Struct, frozen=True, kw_only=True):
    """Of one side in one round. Cores that were busy meanwhile: the server's, and those of anybody else."""

    side: str
    round: int
    figures: dict[str, float]
    server_cores: float
    foreign_cores: float


class SceneRecord(Struct, kw_only=True):
    """failed: by side, why it has no sample, or fewer. seconds: that the scene took."""

    name: str
    when: str
    commit: str
    rounds: int
    samples: list[Sample] = []
    notes: list[str] = []
    failed: dict[str, str] = {}
    seconds: float = 0.0

    def series(self, side: str, figure: str) -> dict[int, float]:
        """By round."""
        return {sample.round: sample.figures[figure] for sample in self.samples
                if sample.side == side and figure in sample.figures}


class Record(Struct, kw_only=True):
    """machine, settings and facts of sides hold only what may be published: no paths, names of hosts or addresses.
    facts: by side. digest: of all that is asked."""

    when: str
    commit: str
    digest: str
    quick: bool
    machine: dict[str, str]
    settings: dict[str, str]
    forms: list[Form] = []
    facts: dict[str, dict[str, str]] = {}
    scenes: dict[str, SceneRecord] = {}

    def save(self, path: Path) -> None:
        """By rename, so that a run that is ended leaves what it had."""
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        part.replace(path)


def path_for(record: Record) -> Path:
    """Named after its time."""
    said = record.when.replace(" UTC", "Z").replace(" ", "T").replace(":", "")
    return ROOT / "bench" / "results" / f"proof-{said}.json"


def load(path: Path) -> Record:
    return msgspec.json.decode(path.read_bytes(), type=Record)
