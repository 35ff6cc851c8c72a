"""A search whose workers die, and one that is killed itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edged.errors import Internal
from tests.daemon import ROOT, until
from tests.stand_in_trials import HANGS, loss_of
from training.run import Moment
from training.search.messages import Begin
from training.search.pool import Pool
from training.search.space import Parameter
from training.search.study import Study
from training.search.trials import make_trials

pytestmark = pytest.mark.faults

COMMAND = (sys.executable, "-m", "tests.stand_in_trials")
RATE = Parameter(key="finetune.learning_rate", default=1e-5, kind="number", low=1e-6, high=1e-1, log=True)


def ranks(*choices: int) -> Parameter:
    return Parameter(key="finetune.rank", default=choices[0], kind="choice", choices=choices)


HANGING = (RATE, ranks(8, 32))


def search(folder: Path, trials: int, *space: Parameter, jobs: int = 1) -> tuple[Study, list[Moment]]:
    (folder / "trials").mkdir(exist_ok=True)
    told: list[Moment] = []
    study = Study(folder, "one", space, seed=1, least=True, prune=True)
    with study, Pool([Begin("run", "recipe.toml", "")] * jobs, folder, COMMAND) as pool:
        make_trials(study, pool, trials=trials, jobs=jobs, folder=folder / "trials", tell=told.append)
    return study, told


@pytest.mark.parametrize("jobs", [1, 3])
def test_trials_are_made_one_by_one_or_side_by_side(tmp_path: Path, jobs: int) -> None:
    study, told = search(tmp_path, 8, RATE, jobs=jobs)
    found = study.found("validation_loss")
    assert found is not None
    assert (found.trials, found.failed) == (8, 0)
    assert found.better
    assert {path.name for path in (tmp_path / "trials").iterdir()} == {f"{number:03}" for number in range(8)}
    assert told[-1].fraction == 1.0
    assert told[-1].figures["best"] == found.best_value


def test_a_trial_that_fails_or_dies_costs_only_itself(tmp_path: Path) -> None:
    study, told = search(tmp_path, 10, RATE, ranks(8, 30, 31))
    rows = study.rows()
    by_rank = {rank: {row["state"] for row in rows if row["settings"]["finetune.rank"] == rank} for rank in (30, 31)}
    assert by_rank == {30: {"fail"}, 31: {"fail"}}
    reasons = " ".join(study.failures())
    assert "no room for rank 30" in reasons
    assert "was killed by signal 9; memory may have run out" in reasons
    assert "this is the last that I say" in reasons
    found = study.found("validation_loss")
    assert found is not None
    assert found.trials == 10
    assert found.best["finetune.rank"] == 8
    assert any(moment.note is not None and "failed: the process of the trial" in moment.note for moment in told)


def test_where_the_first_trials_all_fail_it_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Internal, match=r"the first 3 trials all failed.*no room for rank 30"):
        search(tmp_path, 20, RATE, Parameter(key="finetune.rank", default=30, kind="whole", low=30, high=30))


def test_a_search_that_is_killed_leaves_no_worker_and_goes_on(tmp_path: Path) -> None:
    code = f"from tests.faults.test_search_kills import *; search(Path({str(tmp_path)!r}), 99, *HANGING, jobs=2)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, HANGS: "1"})
    workers: list[psutil.Process] = []
    for _ in until(60):
        workers = psutil.Process(process.pid).children(recursive=True)
        if len(workers) == 2 and (tmp_path / "trials" / "002").exists():
            break
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=10)
    assert left == []
    study, _ = search(tmp_path, 8, *HANGING)
    found = study.found("validation_loss")
    assert found is not None
    assert (found.trials, found.failed, found.default_value) == (8, 0, loss_of(1e-5))
