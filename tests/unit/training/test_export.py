from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from edged.store import trained
from edged.store.select import TRAINING_FILE
from tests.hf_folders import hf_files, lora_files, put
from tests.models import contents
from training import opened
from training.answers.answered import Answered, Told
from training.data.made import DataMade
from training.evaluate.results import Evaluated, Figure, Result
from training.evaluate.subject import About
from training.examples import Example, Message, write_examples
from training.export.stage import EXPORT, Exported
from training.lineage import method
from training.run import Moment, Run, Trained, digest

pytestmark = pytest.mark.unit

DISTIL = """
[distil.answers]
teachers = [{ model = "big", endpoint = "http://127.0.0.1:1/v1" }]
[distil.student]
soft = { temperature = 2 }
"""

DATA = DataMade(digest="d" * 64, train=5, validation=2, test=3, dropped={}, lengths={}, strata={}, files=())


def quiet(moment: Moment) -> None:
    pass


def opens(folder: Path, tables: str) -> Run:
    (folder / "home.toml").write_text(
        f'name = "home"\nbase = "./base"\nseed = 3\n[data]\ntrain = ["a.jsonl"]\n{tables}')
    return opened.open_run(folder / "home.toml")


def ended(folder: Path, tables: str, *, kind: str = "weights", stage: str = "finetune") -> Run:
    """A run up to its evaluation, as its stages leave it."""
    if not (folder / "base").exists():
        put(folder / "base", {**hf_files(), "generation_config.json": b"{}"})
    run = opens(folder, tables)
    (run.folder / "data").mkdir()
    for name, count in (("train", 5), ("validation", 2), ("test", 3)):
        write_examples(run.folder / "data" / f"{name}.jsonl", [
            Example(id=f"{name}{number}", prompt=(Message(role="user", content=f"{name} {number}?"),),
                    answer=Message(role="assistant", content="on")) for number in range(count)])
    run.mark("data", "key of the stage", 1.0, DATA)
    put(run.folder / stage / "model", {
        **(hf_files(hidden_size=4) if kind == "weights" else lora_files(base_model_name_or_path="/private/base")),
        "chat_template.jinja": b"{{ messages }}", "training_args.bin": b"pickle"})
    run.mark(stage, "f" * 32, 1.0, Trained(  # type: ignore[arg-type]
        kind=kind, folder=f"{stage}/model", base="./base", steps=30, seconds=2.5,  # type: ignore[arg-type]
        metrics={"validation_loss": 0.5}))
    (run.folder / "evaluate").mkdir()
    run.mark("evaluate", "e" * 32, 1.0, Evaluated(
        primary="exact_match", metrics=("exact_match",), labels=(), split="test", comparisons=(), report="report.html",
        results=tuple(
            Result(subject=About(name=name, kind="hf"), items=3, failed=0, unfinished=0, strata={},
                   figures={"exact_match": Figure(value=value, low=None, high=None, items=3)})
            for name, value in (("base", 10.0), ("trained", 90.0)))))
    return run


def export(run: Run) -> tuple[Exported, dict[str, bytes]]:
    folder = run.begin("export")
    made = EXPORT.run(run, quiet)
    assert isinstance(made, Exported)
    run.mark("export", EXPORT.key(run), 1.0, made)
    assert folder == run.folder / "export"
    return made, contents(run.folder / made.folder)


def test_whole_weights_go_out_with_their_lineage_and_without_what_a_box_has_no_use_for(tmp_path: Path) -> None:
    run = ended(tmp_path, '[finetune]\nmethod = "full"\n')
    made, files = export(run)
    assert (made.kind, made.folder) == ("model", "export/model")
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "chat_template.jinja",
                          TRAINING_FILE}
    training = trained.decode(files[TRAINING_FILE])
    assert (training.recipe, training.base, training.method) == ("home", "./base", "all weights")
    assert (training.train, training.validation, training.test, training.seed) == (5, 2, 3, 3)
    assert training.metrics == {"validation_loss": 0.5, "exact_match": 90.0}
    assert training.data_digest == "d" * 64
    assert {"torch", "peft", "edged"} <= set(training.packages)


def test_the_same_training_is_exported_as_the_same_bytes(tmp_path: Path) -> None:
    run = ended(tmp_path, "[finetune]\n", kind="weights")
    first, before = export(run)
    again, after = export(run)
    assert (again, after) == (first, before)
    assert first.digest == again.digest


def test_a_kept_adapter_has_what_serves_it_and_no_path_of_this_machine(tmp_path: Path) -> None:
    run = ended(tmp_path, '[finetune]\nrank = 8\n[export]\nadapter = "keep"\n', kind="adapter")
    made, files = export(run)
    assert (made.kind, made.folder) == ("adapter", "export/adapter")
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
                          "generation_config.json", "LICENSE", TRAINING_FILE}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "./base"
    assert trained.decode(files[TRAINING_FILE]).method == "lora of rank 8"
    assert not any(str(tmp_path).encode() in data or b"/private" in data for data in files.values())


@pytest.mark.parametrize("adapter", ["merge", "keep"])
def test_an_absolute_base_is_told_by_its_own_name(tmp_path: Path, adapter: str) -> None:
    run = ended(tmp_path, f'[finetune]\n[export]\nadapter = "{adapter}"\n',
                kind="weights" if adapter == "merge" else "adapter")
    run.file.path.write_text(run.file.text.replace('"./base"', f'"{tmp_path / "base"}"'))
    _, files = export(opened.open_run(run.file.path))
    assert trained.decode(files[TRAINING_FILE]).base == "./base"
    assert not any(str(tmp_path).encode() in data for data in files.values())


def test_a_student_that_began_as_a_folder_tells_its_own_name(tmp_path: Path) -> None:
    run = opens(tmp_path, f'[distil.student]\ninit = "{tmp_path / "small"}"\n')
    assert method(run.recipe) == "a student that began as ./small"


def test_what_was_exported_before_gives_way_to_the_other_kind(tmp_path: Path) -> None:
    run = ended(tmp_path, '[finetune]\n[export]\nadapter = "keep"\n', kind="adapter")
    export(run)
    shutil.rmtree(run.folder / "finetune")
    shutil.rmtree(run.folder / "data")
    shutil.rmtree(run.folder / "evaluate")
    export(ended(tmp_path, '[finetune]\nmethod = "full"\n'))
    assert sorted(path.name for path in (run.folder / "export").iterdir()) == ["done.json", "model"]


def test_the_merged_model_of_a_recipe_stays_where_a_group_keeps_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.export.stage._merge", lambda run, adapter, out, tell: put(out, hf_files()))
    alone = ended(tmp_path, "[finetune]\n", kind="adapter")
    (tmp_path / "house.toml").write_text('name = "house"\nbase = "./base"\nmembers = ["home.toml"]\n[deploy]\n')
    [member] = opened.members(opened.open_run(tmp_path / "house.toml"))
    merged, before = export(alone)
    kept, adapter = export(member)
    assert (merged.folder, kept.folder) == ("export/model", "export/adapter")
    assert contents(alone.folder / merged.folder) == before
    assert (export(alone), contents(member.folder / kept.folder)) == ((merged, before), adapter)
    alone.mark("finetune", "another", 1.0, msgspec.structs.replace(alone.trained(), steps=31))
    export(member)
    assert not (alone.folder / merged.folder).exists()


def test_a_students_teachers_are_its_parents(tmp_path: Path) -> None:
    run = ended(tmp_path, DISTIL, stage="student")
    (run.folder / "answers").mkdir()
    write_examples(run.folder / "answers" / "examples.jsonl", [])
    big = Told(name="big", model="m", endpoint="http://localhost/v1", digest=None, answers=2, kept=1,
               served=("big@12", "big@13"))
    run.mark("answers", "a" * 32, 1.0, Answered(
        digest="d", prompts=2, covered=1, wanted=2, answers=2, kept=1, same=0, rejected={"too short": 1}, left_out=0,
        prompt_tokens=1, completion_tokens=1, cost=0.0, stopped=False, teachers=(big,)))
    _, files = export(run)
    training = trained.decode(files[TRAINING_FILE])
    assert training.parents == ("big (big@12, big@13)", "base")
    assert training.data_digest == digest("d" * 64, "d")
    assert training.method == "a student of 4 layers, 256 wide, from scratch, soft targets at temperature 2"


def test_weights_that_were_only_measured_otherwise_are_not_deployed_again(tmp_path: Path) -> None:
    run = ended(tmp_path, '[finetune]\nmethod = "full"\n[deploy]\n')
    first, before = export(run)
    run.mark("evaluate", "another", 1.0, Evaluated(
        primary="rouge", metrics=("rouge",), labels=(), split="test", comparisons=(), report="report.html", results=()))
    again, after = export(run)
    assert before[TRAINING_FILE] != after[TRAINING_FILE]
    assert again.digest == first.digest
