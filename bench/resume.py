"""python -m bench.resume RECIPE.toml: a training that is killed ten times, against the same one left alone.

Both run as `python -m training` in folders of their own. SIGKILL comes at a random moment of the training, wherever it
is: in a step, in an evaluation, while a checkpoint is written, while a start reads one. Afterwards the loss curves are
compared step by step, and the weights byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from training.fit import history

#: Before a start is killed it gets at least one step done, or the run would not end.
_LEAST_STEPS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edged-resume-") as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        for run in (alone, killed):
            _stage("data", said.recipe, run)
        began = time.monotonic()
        _stage("finetune", said.recipe, alone)
        whole_s = time.monotonic() - began
        steps = _killed(said.recipe, killed, said.kills, last=_done(alone), whole_s=whole_s,
                        moments=random.Random(said.seed))
        _compare(alone, killed, steps)


def _killed(
    recipe: Path, run: Path, kills: int, *, last: int, whole_s: float, moments: random.Random,
) -> list[int]:
    """The last step that was done at each kill. last: of the whole training; a step is left for each kill to come."""
    steps: list[int] = []
    while len(steps) < kills:
        before = _done(run)
        child = subprocess.Popen(_command("finetune", recipe, run), start_new_session=True, stderr=subprocess.DEVNULL)
        while child.poll() is None and _done(run) < before + _LEAST_STEPS:
            time.sleep(0.05)
        ends_s = time.monotonic() + moments.uniform(0, 2 * whole_s / kills)
        while child.poll() is None and time.monotonic() < ends_s and _done(run) < last - kills + len(steps):
            time.sleep(0.05)
        if child.poll() is not None:
            sys.exit(f"the training ended after {len(steps)} kills; a longer one is needed")
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        steps.append(_done(run))
        print(f"killed after step {steps[-1]}", flush=True)
    _stage("finetune", recipe, run)
    return steps


def _compare(alone: Path, killed: Path, steps: list[int]) -> None:
    one, other = (history.read(run / "finetune") for run in (alone, killed))
    if [row.step for row in one] != [row.step for row in other]:
        sys.exit(f"the curves have other points: {[row.step for row in one]}, {[row.step for row in other]}")
    apart = [abs((a.loss or 0.0) - (b.loss or 0.0)) + abs((a.validation_loss or 0.0) - (b.validation_loss or 0.0))
             for a, b in zip(one, other, strict=True)]
    print(f"{len(steps)} kills, after steps {', '.join(map(str, steps))} of {one[-1].step}")
    print(f"losses at most {max(apart):.2e} apart over {len(one)} points; the last ones "
          f"{one[-1].loss or one[-1].validation_loss} and {other[-1].loss or other[-1].validation_loss}")
    print(f"weights are {'the same bytes' if _weights(alone) == _weights(killed) else 'not the same'}")


def _weights(run: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted((run / "finetune" / "model").glob("*.safetensors"))]


def _done(run: Path) -> int:
    rows = history.read(run / "finetune")
    return rows[-1].step if rows else 0


def _stage(name: str, recipe: Path, run: Path) -> None:
    subprocess.run(_command(name, recipe, run), check=True, stderr=subprocess.DEVNULL)


def _command(name: str, recipe: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "training", name, "--recipe", str(recipe), "--folder", str(run)]


if __name__ == "__main__":
    main()
