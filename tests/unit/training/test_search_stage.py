"""What a search refuses before it makes a trial, and the share of the data that trials see."""

from __future__ import annotations

import contextlib
import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.errors import ConfigError, InvalidRequest
from tests.hf_folders import hf_files, put
from training.evaluate import measure
from training.evaluate.items import Said
from training.examples import Example, Message, write_examples
from training.finetune import stage
from training.recipe import load_recipe
from training.run import Run
from training.search import worker
from training.search.messages import Pruned
from training.search.stage import SEARCH, view_of
from training.search.trial import Trial, as_tried, share_of

pytestmark = pytest.mark.unit


def run_of(folder: Path, search: str, table: str = "[finetune]\nmax_steps = 50\n") -> Run:
    path = folder / "home.toml"
    path.write_text(f'name = "home"\nbase = "./base"\ndata = {{train = ["a.jsonl"]}}\n{table}\n[search]\n{search}\n')
    recipe, file = load_recipe(path)
    return Run(folder / "run", recipe, file)


@pytest.mark.parametrize(("search", "message"), [
    ("ranges = {'finetune.devices' = {low = 1, high = 2}}", "one device each"),
    ("ranges = {'finetune.preferences.beta' = {low = 0.1, high = 0.2}}", "before preferences are learned"),
    ("ranges = {'finetune.completion_only' = {choices = [true, false]}}", "changes what validation_loss counts"),
    ("objective = 'perplexity'\nranges = {'finetune.completion_only' = {choices = [true, false]}}", "what perplexity"),
    ("objective = 'judge'\nranges = {'finetune.rank' = {low = 1, high = 32}}", r"add \[evaluate.judge\]"),
])
def test_what_cannot_be_searched_for_is_told_with_its_place(tmp_path: Path, search: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SEARCH.run(run_of(tmp_path, search), lambda moment: None)
    assert caught.value.line is not None


def test_trials_are_as_long_as_the_search_says_and_no_longer_than_the_training(tmp_path: Path) -> None:
    for said, steps in (("max_steps = 20\n", 20), ("max_steps = 99\n", 50), ("", 50)):
        recipe = as_tried(run_of(tmp_path, said + "ranges = {'finetune.rank' = {low = 1, high = 32}}").recipe)
        assert recipe.finetune is not None
        assert recipe.finetune.max_steps == steps
    table = "[distil.student]\nmax_steps = 50\n"
    search = "max_steps = 20\nranges = {'distil.student.batch_size' = {low = 1, high = 32}}"
    recipe = as_tried(run_of(tmp_path, search, table).recipe)
    assert recipe.distil is not None
    assert recipe.distil.student is not None
    assert recipe.distil.student.max_steps == 20


@pytest.mark.parametrize("student", [
    "init = './smaller'", "soft = {teachers = [{model = './base'}, {model = './smaller'}]}",
])
def test_another_model_to_begin_with_or_to_learn_from_is_another_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: str,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "no-store"))
    put(tmp_path / "base", hf_files())
    put(tmp_path / "smaller", hf_files(hidden_size=4))
    ranges = "ranges = {'distil.student.batch_size' = {low = 1, high = 32}}"
    run = run_of(tmp_path, ranges, f"[distil.student]\n{student}\n")
    run.folder.mkdir()
    run.begin("data")
    run.mark("data", "key", 0.0, None)
    key = SEARCH.key(run)
    assert SEARCH.key(run) == key
    (tmp_path / "smaller" / "config.json").write_bytes(hf_files(hidden_size=2)["config.json"])
    assert SEARCH.key(run) != key


@pytest.mark.parametrize(("table", "same"), [
    ("max_steps = 50\nthrough = 'olive'\n", True),
    ("max_steps = 50\n[finetune.preferences]\nbeta = 0.2\n", True),
    ("max_steps = 20\n", False),
    ("max_steps = 50\nrank = 8\n", False),
])
def test_only_what_trials_do_makes_another_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, same: bool,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "no-store"))
    put(tmp_path / "base", hf_files())
    said = "max_steps = 40\nranges = {'finetune.learning_rate' = {low = 1e-5, high = 1e-2}}"
    before = run_of(tmp_path, said)
    split(before, train=["on"], validation=["off"])
    assert (SEARCH.key(run_of(tmp_path, said, f"[finetune]\n{table}")) == SEARCH.key(before)) is same


def split(run: Run, *, train: list[str], validation: list[str]) -> None:
    """Stage data has ended with these answers."""
    run.folder.mkdir()
    run.begin("data")
    for name, answers in (("train", train), ("validation", validation), ("test", [])):
        write_examples(run.path("data") / f"{name}.jsonl", [
            Example(id=f"{name}{number}", prompt=(Message("user", f"{name} {number}"),),
                    answer=Message("assistant", answer)) for number, answer in enumerate(answers)])
    run.mark("data", "key", 0.0, None)


F1 = "objective = 'f1'\nranges = {'finetune.rank' = {low = 1, high = 32}}"


def test_a_trials_classes_are_those_of_the_training_split_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Model:
        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"")

    def says_yes(subject: object, batch_size: int) -> contextlib.nullcontext[Asked]:
        return contextlib.nullcontext(Asked())

    class Asked:
        def said(self, examples: list[Example], max_tokens: int) -> Iterator[Said]:
            return (Said(id=each.id, said=Message("assistant", "yes"), finish_reason="stop") for each in examples)

    monkeypatch.setattr(measure, "asked", says_yes)
    monkeypatch.setattr(stage, "save", lambda weights, tokenizer, to: weights(to))
    run = run_of(tmp_path, F1)
    # Too few sightings of each in the validation split alone.
    split(run, train=["yes", "no", "perhaps"] * 5, validation=["yes", "yes", "no"])
    trial = Trial(run, {}, tmp_path / "trial", lambda moment: None, lambda evaluation, loss: None)
    assert trial._metric(run.recipe, "f1", Model(), None) == pytest.approx(100 * (4 / 5 + 0) / 2)


def test_a_metric_that_does_not_fit_the_answers_is_told_before_a_trial_is_made(tmp_path: Path) -> None:
    run = run_of(tmp_path, F1)
    split(run, train=[f"answer {number}" for number in range(20)], validation=["another"])
    with pytest.raises(InvalidRequest, match=r"name the classes \(evaluate\.labels\)"):
        SEARCH.run(run, lambda moment: None)


def test_a_trial_that_has_ended_leaves_nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model of trl leaves: it holds itself."""
    class Model:
        def __init__(self) -> None:
            self.itself = self

    left: list[weakref.ref[Model]] = []

    def made(*ignored: object) -> Pruned:
        left.append(weakref.ref(Model()))
        return Pruned()

    gc.disable()
    try:
        monkeypatch.setattr(worker, "_made", made)
        worker.answered(None, None, None)  # type: ignore[arg-type]
        assert left[0]() is None
    finally:
        gc.enable()


def test_workers_see_what_came_before_wherever_the_run_folder_is(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    run = run_of(here, "ranges = {'finetune.rank' = {low = 1, high = 32}}")
    run.folder.mkdir()
    for name in ("base", "data"):
        (run.folder / name).mkdir()
    (run.folder / "data" / "train.jsonl").write_text("rows")
    view = view_of(run, run.begin("search"), 0)
    assert (view / "data" / "train.jsonl").read_text() == "rows"
    shutil.copytree(run.folder, there / "run", symlinks=True)
    shutil.rmtree(here)
    assert (there / "run" / view.relative_to(run.folder) / "data" / "train.jsonl").read_text() == "rows"
    link = there / "run" / view.relative_to(run.folder) / "data"
    link.unlink()
    link.symlink_to(run.folder / "data")
    moved = run_of(there, "ranges = {'finetune.rank' = {low = 1, high = 32}}")
    assert (view_of(moved, moved.path("search"), 0) / "data" / "train.jsonl").read_text() == "rows"


def test_trials_run_on_one_device_each_with_as_many_examples_a_step(tmp_path: Path) -> None:
    table = "[finetune]\ndevices = 2\naccumulation = 3\n"
    recipe = as_tried(run_of(tmp_path, "ranges = {'finetune.rank' = {low = 1, high = 32}}", table).recipe)
    assert recipe.finetune is not None
    assert (recipe.finetune.devices, recipe.finetune.accumulation, recipe.finetune.max_steps) == (1, 6, None)


def test_every_trial_sees_the_same_share_of_the_prompts_with_all_their_answers() -> None:
    examples = [Example(id=str(number % 20), prompt=(), answer=Message("assistant", str(number)))
                for number in range(40)]
    some = share_of(examples, 0.25, seed=1)
    assert some == share_of(list(examples), 0.25, seed=1) != share_of(examples, 0.25, seed=2)
    assert len({example.id for example in some}) == 5
    assert len(some) == 10
    assert share_of(examples, 1.0, seed=1) == examples
    assert len(share_of(examples, 0.001, seed=1)) == 2
