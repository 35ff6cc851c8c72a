"""A search of settings for a tiny model, with the real worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training import chain
from training.chosen import chosen
from training.recipe import load_recipe
from training.run import Moment, Run
from training.search.found import Searched
from training.search.trial import Trial

pytestmark = pytest.mark.real

RECIPE = """
name = "home"
base = "./base"
[data]
train = ["train.jsonl"]
validation_share = 0.2
[finetune]
learning_rate = 1e-6
batch_size = 8
evaluations = 3
epochs = 1.0
precision = "fp32"
[search]
trials = 4
jobs = 2
share = 0.5
max_steps = 4
[search.ranges]
"finetune.learning_rate" = {low = 1e-6, high = 1e-1, log = true}
"finetune.rank" = {choices = [4, 16]}
"""


def test_a_better_recipe_is_found_and_followed(tiny_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "base").symlink_to(tiny_hf)
    rows = [{"prompt": f"say {number}", "answer": f"it is {number % 10}"} for number in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "home.toml"
    path.write_text(RECIPE)
    recipe, file = load_recipe(path)
    run = Run(tmp_path / "run", recipe, file)
    run.folder.mkdir()
    told: list[Moment] = []
    chain.run_stages(run, told.append, names=("data", "search"))
    found = run.value("search", Searched)
    assert (found.trials, found.failed) == (4, 0)
    assert found.default_value is not None
    assert found.better
    assert found.best_value < found.default_value
    followed = chosen(recipe, run).finetune
    assert followed is not None
    assert followed.learning_rate == found.best["finetune.learning_rate"] != 1e-6
    trials = json.loads((run.path("search") / "trials.json").read_bytes())
    assert [trial["settings"]["finetune.learning_rate"] for trial in trials[:1]] == [1e-6]
    assert {trial["steps"] for trial in trials if trial["state"] == "complete"} == {3}
    for folder in (run.path("search") / "trials").iterdir():
        assert "history.jsonl" in {each.name for each in folder.iterdir()}
        assert not {"model", "checkpoints"} & {each.name for each in folder.iterdir()}
    assert (run.path("search") / "history.png").exists()
    assert any(moment.stage == "search" and "loss" in moment.figures for moment in told)


def prepared(folder: Path, tiny_hf: Path, text: str) -> Run:
    """A run whose data is there: so few prompts that a tiny model learns them."""
    (folder / "base").symlink_to(tiny_hf)
    rows = [{"prompt": f"say {number}", "answer": "yes"} for number in range(24)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "home.toml"
    path.write_text(text)
    recipe, file = load_recipe(path)
    run = Run(folder / "run", recipe, file)
    run.folder.mkdir()
    chain.run_stages(run, lambda moment: None, names=("data",))
    (folder / "trial").mkdir()
    return run


def test_a_trial_may_be_judged_by_what_it_says(tiny_hf: Path, tmp_path: Path, one_thread: None) -> None:
    text = RECIPE.replace("[search]", '[search]\nobjective = "exact_match"').replace("max_steps = 4", "")
    run = prepared(tmp_path, tiny_hf, text.replace("epochs = 1.0", "epochs = 30.0") + "[evaluate]\nmax_tokens = 4\n")
    evaluations: list[float] = []
    value, figures = Trial(
        run, {"finetune.learning_rate": 1e-2}, tmp_path / "trial", lambda moment: None,
        lambda step, loss: evaluations.append(loss)).made()
    assert value == figures["exact_match"] == 100.0
    assert len(evaluations) == 3
    assert min(evaluations) == figures["validation_loss"]


STUDENT = """
name = "home"
base = "./base"
data = {train = ["train.jsonl"]}
[distil.student]
batch_size = 8
evaluations = 2
epochs = 2.0
precision = "fp32"
soft = {share = 0.5}
architecture = {hidden = 64, layers = 1, heads = 2, kv_heads = 1, intermediate = 96, context = 128}
[search.ranges]
"distil.student.architecture.layers" = {low = 1, high = 4}
"""


def test_the_shape_of_a_student_is_tried_too(tiny_hf: Path, tmp_path: Path, one_thread: None) -> None:
    run = prepared(tmp_path, tiny_hf, STUDENT)
    evaluations: list[float] = []
    value, figures = Trial(
        run, {"distil.student.architecture.layers": 2}, tmp_path / "trial", lambda moment: None,
        lambda step, loss: evaluations.append(loss)).made()
    assert value == figures["validation_loss"] == min(evaluations)
    assert figures["steps"] == 6
    assert not (tmp_path / "trial" / "checkpoints").exists()
