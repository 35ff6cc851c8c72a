"""`edged train`, as a person and a script use it: exit codes, signals, where it works."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import EDGED, ROOT, environment, until

pytestmark = pytest.mark.http

RECIPE = 'name = "home"\nbase = "nobody"\n[data]\ntrain = ["a.jsonl"]\n[finetune]\n[deploy]\n'


def train(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGED, "train", *arguments], cwd=ROOT, env=environment(folder, **more), text=True,
                          capture_output=True, timeout=60, check=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "home.toml"
    path.write_text(RECIPE)
    (tmp_path / "a.jsonl").write_text('{"prompt": "lights?", "answer": "on"}\n')
    return path


def test_a_mistake_in_the_recipe_has_its_place_and_a_code(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("[finetune]", '[finetune]\nmethod = "magic"'))
    told = train(tmp_path, str(recipe))
    assert told.returncode == 2
    assert f"{recipe}:6" in told.stderr
    assert "Traceback" not in told.stderr


def test_what_cannot_end_well_is_refused_before_it_begins(recipe: Path, tmp_path: Path) -> None:
    told = train(tmp_path, str(recipe), "--json")
    assert told.returncode == 3
    error = json.loads(told.stdout.splitlines()[-1])["error"]
    assert "'nobody' is not installed" in error["message"]
    assert not (tmp_path / "runs" / "home" / "data").exists()


def test_without_the_extra_it_says_what_to_install(recipe: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name in ('trl', 'optuna') else find(name, *more)\n")
    told = train(tmp_path, str(recipe), PYTHONPATH=f"{bare}:{ROOT}")
    assert told.returncode == 5
    assert "(optuna, trl): pip install 'edged[train]'" in told.stderr


CHILD = """
import sys
from pathlib import Path
from edged.cli.train import run_child
print("begun", flush=True)
code = run_child([sys.executable, "-c", '''
import signal, sys, time
def end(number, frame):
    print("child got", number, flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
for _ in range(600):
    time.sleep(0.1)
'''], {})
print("code", code, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_child_and_then_the_command(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with out.open("w") as file, subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=ROOT, env=environment(tmp_path), stdout=file,
            stderr=file) as process:
        for _ in until(20):
            if "ready" in out.read_text():
                break
        process.send_signal(number)
        process.wait(20)
    assert out.read_text().split() == ["begun", "ready", "child", "got", "15", "code",
                                       "7" if number == signal.SIGTERM else "130"]
