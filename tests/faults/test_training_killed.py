"""A killed training leaves no process, no lock and no stage that says it has ended; the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.daemon import ROOT, until

pytestmark = pytest.mark.faults

#: A chain whose only stage counts in a file what it began, and ends once it has begun twice.
CHAIN = """
import sys, time
from pathlib import Path
from training import chain, opened
from training.stage import StageKind

def work(run, tell):
    begun = run.path("data") / "begun"
    with begun.open("a") as file:
        file.write("begun ")
    while begun.read_text().split() == ["begun"]:
        time.sleep(0.05)
    return {"begun": 2}

def find(name):
    return StageKind(name, lambda recipe: name == "data", lambda run: "key", work)

run = opened.open_run(Path(sys.argv[1]))
with opened.held(run):
    print("held", flush=True)
    chain.run_stages(run, lambda moment: None, find=find)
"""


def start(recipe: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHAIN, str(recipe)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_same_command_goes_on_after_any_end(tmp_path: Path, number: signal.Signals) -> None:
    recipe = tmp_path / "home.toml"
    recipe.write_text('name = "home"\nbase = "b"\n[data]\ntrain = ["a"]\n')
    folder = tmp_path / "runs" / "home" / "data"
    first = start(recipe)
    for _ in until(20):
        if (folder / "begun").exists():
            break
    [stage] = psutil.Process(first.pid).children()
    os.kill(first.pid, number)
    first.communicate(timeout=20)
    assert psutil.wait_procs([stage], timeout=10)[1] == []
    assert not (folder / "done.json").exists()

    told, _ = start(recipe).communicate(timeout=20)
    assert told == "held\n"
    assert (folder / "begun").read_text().split() == ["begun", "begun"]
    assert (folder / "done.json").exists()


def test_a_second_process_is_told_that_the_folder_is_taken_while_a_stage_lives(tmp_path: Path) -> None:
    recipe = tmp_path / "home.toml"
    recipe.write_text('name = "home"\nbase = "b"\n[data]\ntrain = ["a"]\n')
    first = start(recipe)
    for _ in until(20):
        if (tmp_path / "runs" / "home" / "data" / "begun").exists():
            break
    told, errors = start(recipe).communicate(timeout=20)
    assert told == ""
    assert "another process works in" in errors
    first.kill()
    first.communicate()
