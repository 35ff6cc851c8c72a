from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from converters import calibration, tasks
from converters.recipe import load_recipe
from converters.record import settings_of
from edged.errors import ConfigError, Conflict, Internal, InvalidRequest
from edged.store import Store
from edged.store.entries import JobProgress, Manifest
from edged.store.lineage import Conversion, ConversionSpec, ConvertedSource
from tests.hf_folders import hf_files, put
from training import opened
from training.data.made import DataMade
from training.deploy import command, stage
from training.deploy.served_stage import SERVED_STAGE
from training.deploy.texts import passage, task
from training.examples import Example, Message, write_examples
from training.export.stage import Exported
from training.run import Run, StageName
from training.split import SPLITS, split_file

pytestmark = pytest.mark.unit


MANIFEST = ('{"name": "home", "version": "abcdefabcdef", "digest": "x", "engine": "ort", "precision": "int8",'
            ' "file": "g", "files": [], "source": {"from": "local", "path": "/x"}, "reference": "x", "created": 1}')


def opens(folder: Path, deploy: str = "", *, name: str = "home", base: str = "smollm2-135m", more: str = "") -> Run:
    path = folder / "home.toml"
    path.write_text(f'name = "{name}"\nbase = "{base}"\n[data]\ntrain = ["a.jsonl"]\n[finetune]\n[deploy]\n{deploy}\n'
                    + more)
    return opened.open_run(path)


@pytest.mark.parametrize(("said", "words"), [
    ({"deploy": 'conversion = ["cpu-int9"]'}, "cpu-int9"),
    ({"deploy": 'conversion = ["own.toml"]'}, "own.toml"),
    ({"deploy": "conversion = []"}, "names no conversion"),
    ({"name": "smollm2-135m"}, "is that of the base"),
    ({"deploy": 'adapter_of = "smollm2-135m"'}, 'adapter = "keep"'),
    ({"deploy": 'adapter_of = "nobody"', "more": '[export]\nadapter = "keep"\n'}, "nobody is not installed"),
    ({"deploy": 'conversion = ["cpu-int8", "cpu-fp32"]', "more": '[export]\nadapter = "keep"\n'}, "beside one model"),
    ({"deploy": "activate = false", "more": '[export]\nadapter = "keep"\n'}, "serves as soon as"),
])
def test_what_cannot_be_deployed_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], words: str,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=words) as raised:
        stage.check(opens(tmp_path, **said))
    assert str(tmp_path / "home.toml") in str(raised.value)


def test_a_conversion_recipe_of_ones_own_lies_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('base = "cpu-int8"\n[limits]\nperplexity_ratio = 1.5\n')
    run = opens(tmp_path, 'conversion = ["own.toml", "cpu-int8"]')
    stage.check(run)
    assert stage.conversion(run, "own.toml") == str(tmp_path / "own.toml")
    assert stage.conversion(run, "cpu-int8") == "cpu-int8"


def test_a_conversion_recipe_counts_with_those_that_it_begins_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stage, "_exported", lambda run: ("digest",))
    monkeypatch.setattr(stage, "base_key", lambda run: "base")
    (tmp_path / "own.toml").write_text('base = "./below.toml"\n')
    (tmp_path / "below.toml").write_text('base = "cpu-int8"\n')
    run = opens(tmp_path, 'conversion = ["own.toml"]')
    before = stage.key(run)
    assert stage.key(run) == before
    (tmp_path / "below.toml").write_text('base = "cpu-int8"\n[limits]\nperplexity_ratio = 1.5\n')
    assert stage.key(run) != before


def test_a_base_that_another_form_of_the_recipe_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    recipe = load_recipe("cpu-int8")
    made = msgspec.structs.replace(
        msgspec.json.decode(MANIFEST, type=Manifest), source=ConvertedSource(base="./base", base_digest="b"),
        conversion=Conversion(recipe="cpu-int8",
                              settings=settings_of(recipe, ConversionSpec(name="home", source="./base"))))
    monkeypatch.setattr(Store, "manifest", lambda store, name: made)
    run = opens(tmp_path)
    assert stage._serves_already(run, "b", recipe)
    assert not stage._serves_already(run, "other", recipe)
    assert not stage._serves_already(run, "b", msgspec.structs.replace(recipe, precision="int4"))


def example(question: str = "lights?", answer: Message | None = None, **more: Any) -> Example:
    return Example(id="1", prompt=(Message(role="user", content=question),),
                   answer=answer or Message(role="assistant", content='{"on": true}'), **more)


def test_tasks_and_texts_are_what_a_conversion_reads(tmp_path: Path) -> None:
    made = task(example(), 1024)
    (tmp_path / "tasks.jsonl").write_bytes(msgspec.json.encode(made))
    (tmp_path / "texts.jsonl").write_bytes(msgspec.json.encode(passage(example())))
    (_, read), = tasks.read(tmp_path / "tasks.jsonl")
    assert (read.answer, read.match) == ('{"on": true}', "exact")
    text = calibration.read(tmp_path / "texts.jsonl", "gate")
    assert text.passages[0].messages == [{"role": "user", "content": "lights?"},
                                         {"role": "assistant", "content": '{"on": true}'}]


@pytest.mark.parametrize("unfit", [
    example("x" * 1000), example(answer=Message(role="assistant", content=" ")),
    example(tools=({"type": "function", "function": {"name": "light"}},)),
    example(answer=Message(role="assistant", content="", tool_calls=({"function": {"name": "light"}},))),
])
def test_what_a_gate_cannot_ask_is_no_task(unfit: Example) -> None:
    assert task(unfit, 1024) is None


def exported(folder: Path, kind: Literal["model", "adapter"] = "model", more: str = "") -> Run:
    """A run whose export has ended."""
    put(folder / "base", hf_files())
    run = opens(folder, base="./base", more=more)
    measured(run, "wrong")
    run.begin("export")
    run.mark("export", "key", 1.0, Exported(kind=kind, folder=f"export/{kind}", digest="e" * 64, size_bytes=1))
    return run


def measured(run: Run, answer: str) -> None:
    """Stage data has ended, with this answer in its test split."""
    run.begin("data")
    for name in SPLITS:
        write_examples(split_file(run, name), [example(name, Message("assistant", answer if name == "test" else "on"))])
    run.mark("data", "key", 1.0, DataMade(
        digest=answer, train=1, validation=1, test=1, dropped={}, lengths={}, strata={}, files=()))


def test_a_version_is_made_again_where_other_items_are_to_judge_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    run = exported(tmp_path)
    before = stage.key(run)
    assert stage.key(run) == before
    measured(run, "right")
    assert stage.key(run) != before


def test_an_adapter_that_is_kept_is_judged_by_no_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    run = exported(tmp_path, "adapter", '[export]\nadapter = "keep"\n')
    before = stage.key(run)
    measured(run, "right")
    assert stage.key(run) == before


def test_a_conversion_with_other_texts_is_asked_for_in_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    asked: list[Sequence[str]] = []

    def job(arguments: Sequence[str], told: command.Told) -> Manifest:
        asked.append(arguments)
        return msgspec.json.decode(MANIFEST, type=Manifest)

    monkeypatch.setattr(command, "job", job)
    run = exported(tmp_path)
    put(run.folder / "export" / "model", hf_files(max_position_embeddings=1024))
    run.begin("deploy")
    for answer in ("wrong", "wrong", "right"):
        measured(run, answer)
        stage.run_deploy(run, lambda moment: None)
        tasks_file = Path(asked[-1][asked[-1].index("--tasks") + 1])
        assert answer in tasks_file.read_text()
    assert asked[0] == asked[1] != asked[2]


def says(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(command, "EDGED", (sys.executable, "-c", code))


def test_a_job_tells_its_progress_and_ends_with_its_version_though_it_is_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says(monkeypatch, f"""
print('{{"progress": {{"stage": "gate", "fraction": 0.5}}}}')
print('{{"manifest": {MANIFEST}}}')
raise SystemExit(6)
""")
    told: list[JobProgress] = []
    assert command.job(["convert", "x"], told.append).version == "abcdefabcdef"
    assert told == [JobProgress(stage="gate", fraction=0.5)]


@pytest.mark.parametrize(("code", "kind", "words"), [
    (r"""print('{"error": {"status": 422, "type": "invalid_request_error", "code": "conflict", "message": "in use"}}')
raise SystemExit(5)""", Conflict, "`edged convert`: in use"),
    (r"""print('{"error": {"status": 500, "type": "server_error", "code": "load_failed", "message": "no"}}')
raise SystemExit(1)""", Internal, "`edged convert`: no"),
    (r"""import sys; print("edged: no daemon runs", file=sys.stderr); raise SystemExit(4)""", InvalidRequest,
     "`edged convert`: no daemon runs"),
    ("pass", Internal, "named no version"),
])
def test_a_command_that_fails_is_told_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception], words: str,
) -> None:
    says(monkeypatch, code)
    with pytest.raises(kind, match=words):
        command.job(["convert", "x"], lambda moment: None)


def test_what_is_served_is_measured_again_where_an_evaluation_was_made_again(tmp_path: Path) -> None:
    run = opens(tmp_path)
    names: tuple[StageName, ...] = ("deploy", "evaluate")
    for name in names:
        run.begin(name)
        run.mark(name, "key", 1.0, None)
    before = SERVED_STAGE.key(run)
    assert SERVED_STAGE.key(run) == before
    run.mark("evaluate", "key", 1.0, None)
    assert SERVED_STAGE.key(run) != before
