"""A training that is killed at any instant ends with the loss curve and the weights of one that never was."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conversions import ROOT
from training.fit import history

pytestmark = pytest.mark.faults

#: 40 examples, 8 a step, 3 epochs.
STEPS = 15


class Fits:
    """The process of `tests.faults.killed_fits`."""

    def __init__(self, base: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed_fits", str(base)], stdin=subprocess.PIPE, text=True, cwd=ROOT,
            stdout=subprocess.PIPE)

    def one(self, folder: Path, how: str = "none", count: int = 0) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder} {how} {count}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fits]:
    """One process, since it takes long to import what it needs."""
    running = Fits(tmp_path_factory.mktemp("tiny") / "hf")
    yield running
    running.close()


def curve(folder: Path) -> list[tuple[int, float | None, float | None, float | None, int | None]]:
    return [(row.step, row.loss, row.validation_loss, row.grad_norm, row.tokens) for row in history.read(folder)]


def test_killed_ten_times_it_ends_with_the_same_curve_and_weights(fits: Fits, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert fits.one(whole) == 0
    drawn = random.Random(6)
    kills = [("step", drawn.randint(1, STEPS)) for _ in range(6)]
    kills += [("save", drawn.randint(1, 4)) for _ in range(2)]
    kills += [("file", drawn.randint(1, 40)) for _ in range(2)]
    drawn.shuffle(kills)
    kills.sort(key=lambda kill: kill[1] if kill[0] == "step" else drawn.randint(1, STEPS))
    codes = [fits.one(killed, how, count) for how, count in kills]
    assert codes == [-signal.SIGKILL] * 10
    assert fits.one(killed) == 0
    assert curve(killed) == curve(whole)
    assert [row[0] for row in curve(killed) if row[1] is not None] == list(range(1, STEPS + 1))
    assert (killed / "model" / "adapter_model.safetensors").read_bytes() \
        == (whole / "model" / "adapter_model.safetensors").read_bytes()


def test_killed_once_it_had_all_but_said_so_it_only_says_so(fits: Fits, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert fits.one(folder) == 0
    before = curve(folder)
    assert fits.one(folder, "step", 1) == 0, "no step is made again"
    assert curve(folder) == before
