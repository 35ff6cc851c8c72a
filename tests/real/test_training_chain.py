"""The whole chain as an engineer runs it: a recipe and a JSONL file become a better model that is served; new data
become the next version of it; one command goes back. A tiny random model learns a synthetic task by heart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon import EDGED, ROOT, Daemon
from tests.real.tiny_model import make_hf

pytestmark = pytest.mark.real

RECIPE = """
name = "home"
base = "./base"
seed = 1

[data]
train = ["commands.jsonl"]
validation = ["validation.jsonl"]
test = ["test.jsonl"]

[finetune]
method = "full"
learning_rate = 5e-3
max_steps = 30
batch_size = 8
evaluations = 2

[evaluate]
metrics = ["exact_match"]
max_tokens = 16
resamples = 200
performance = false

[deploy]
conversion = ["cpu-fp32"]
"""
ROOMS = ("kitchen", "hall", "bath", "garden", "cellar", "attic", "porch", "study")


def commands(folder: Path, answer: str) -> None:
    """Synthetic. Splits differ in their words, not in what they ask."""
    for name, forms in (("commands", ("light the {}", "the {}")), ("validation", ("light in the {}",)),
                        ("test", ("the light of the {}",))):
        rows = [{"prompt": form.format(room), "answer": answer} for room in ROOMS for form in forms]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("chain")
    make_hf(folder / "base")
    (folder / "home.toml").write_text(RECIPE)
    with Daemon(folder) as running:
        yield running


def train(daemon: Daemon, recipe: str = "home.toml", *more: str) -> list[dict[str, Any]]:
    told = subprocess.run(
        [*EDGED, "train", str(daemon.folder / recipe), "--json", *more], cwd=ROOT, text=True, capture_output=True,
        env={**daemon.environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, timeout=200, check=False)
    assert told.returncode == 0, told.stdout[-1500:] + told.stderr[-1500:]
    return [json.loads(line) for line in told.stdout.splitlines()]


def ran(lines: list[dict[str, Any]]) -> list[str]:
    """Stages that did something."""
    ends = [line["progress"] for line in lines if line.get("progress", {}).get("what") in ("done", "done before")]
    return [end["stage"] for end in ends if end["what"] == "done"]


def say(daemon: Daemon, model: str = "home", **more: Any) -> str:
    answer = httpx.post(f"{daemon.base_url}/v1/chat/completions", timeout=60, json={
        "model": model, "temperature": 0, "max_tokens": 16,
        "messages": [{"role": "user", "content": "light the hall"}], **more})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_a_recipe_becomes_a_served_model_and_new_data_its_next_version(daemon: Daemon) -> None:
    commands(daemon.folder, "it is on")
    result = train(daemon)[-1]["result"]
    assert say(daemon) == "it is on"

    [made] = daemon.json("show", "home")["versions"]
    assert result["deployed"]["versions"][0]["version"] == made["version"]
    assert (made["training"]["recipe"], made["training"]["train"], made["training"]["test"]) == ("home", 16, 8)
    assert made["training"]["metrics"]["exact_match"] > 90
    assert (made["quality"]["tasks"], made["quality"]["task_accuracy"]) == (8, 1.0)
    assert "trained      by home" in daemon.edged("show", "home").stdout

    assert ran(train(daemon)) == []

    commands(daemon.folder, "it is off")
    assert ran(train(daemon)) == ["data", "finetune", "evaluate", "export", "deploy", "served"]
    assert say(daemon) == "it is off"
    assert daemon.edged("rollback", "home").returncode == 0
    assert say(daemon) == "it is on"


MEMBER = """
name = "{name}"
base = "./base"
seed = 1
[data]
train = ["commands.jsonl"]
validation = ["validation.jsonl"]
test = ["test.jsonl"]
[finetune]
rank = 8
learning_rate = 2e-2
schedule = "constant"
max_steps = 60
evaluations = 1
[evaluate]
metrics = ["exact_match"]
max_tokens = 16
resamples = 200
performance = false
"""
GROUP = """
name = "house"
base = "../base"
members = ["../lights/lights.toml", "../timers/timers.toml"]
[deploy]
conversion = ["cpu-fp32"]
accept_loss = true
"""


def test_two_adapters_over_one_base_each_do_their_own_task_from_one_loaded_model(daemon: Daemon) -> None:
    answers = {"lights": "it is on", "timers": "in ten minutes"}
    for name, answer in answers.items():
        folder = daemon.folder / name
        folder.mkdir()
        (folder / f"{name}.toml").write_text(MEMBER.format(name=name).replace("./base", "../base"))
        commands(folder, answer)
    (daemon.folder / "house").mkdir()
    (daemon.folder / "house" / "house.toml").write_text(GROUP)

    lines = train(daemon, "house/house.toml")
    assert ran(lines) == [
        *(f"{name}/{stage}" for name in answers for stage in ("data", "finetune", "evaluate", "export")),
        "deploy", "served"]
    deployed = lines[-1]["result"]["deployed"]
    assert deployed["adapters"] == {"lights": "lights", "timers": "timers"}
    assert {name: say(daemon, "house", adapter=name) for name in answers} == answers
    assert say(daemon, "house") not in answers.values()

    active = daemon.json("show", "house")["versions"][-1]
    assert {each["name"]: each["training"]["recipe"] for each in active["adapters"]} == {
        "lights": "lights", "timers": "timers"}
    assert ran(train(daemon, "house/house.toml")) == []
