from __future__ import annotations

import os
from pathlib import Path

import pytest

from edged.errors import ConfigError, DeviceUnavailable, EdgedError, InvalidRequest, ModelNotFound, RefusedFile
from edged.hardware.facts import Facts
from tests.hf_folders import hf_files, put
from training import opened, preflight
from training.recipe import Recipe
from training.run import Run

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Run:
    put(tmp_path / "base", hf_files())
    (tmp_path / "a.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')
    (tmp_path / "home.toml").write_text('name = "home"\nbase = "./base"\n[data]\ntrain = ["a.jsonl"]\n[finetune]\n')
    return opened.open_run(tmp_path / "home.toml")


def test_torch_is_asked_in_a_process_that_no_stage_is_forked_from(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asks(recipe: Recipe, facts: Facts) -> None:
        (tmp_path / "asked").write_text(f"{recipe.name} {os.getpid()}")

    monkeypatch.setattr(preflight, "require_machine", asks)
    preflight.check(run)
    name, process = (tmp_path / "asked").read_text().split()
    assert name == "home"
    assert int(process) != os.getpid()


def test_what_the_machine_cannot_do_is_refused_in_its_own_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(recipe: Recipe, facts: Facts) -> None:
        raise DeviceUnavailable("this GPU has no bf16 arithmetic")

    monkeypatch.setattr(preflight, "require_machine", refuses)
    with pytest.raises(DeviceUnavailable, match=r"^this GPU has no bf16 arithmetic$"):
        preflight.check(run)


@pytest.mark.parametrize(("said", "key", "words"), [
    ('judge = { model = "j", endpoint = "http://127.0.0.1:1/v1", api_key_env = "NOBODYS_KEY" }', "evaluate.judge",
     "NOBODYS_KEY is not set"),
    ('judge = { model = "j", endpoint = "ftp://judge" }', "evaluate.judge", "is no address"),
    ('beside = [{ model = "m", endpoint = "https://x/v1", api_key_env = "NOBODYS_KEY" }]', "evaluate.beside",
     "NOBODYS_KEY is not set"),
    ('beside = [{ model = "org/m" }, { model = "m", name = "org-m" }]', "evaluate.beside", "called org-m"),
    ('beside = [{ model = "m", name = "served" }]', "evaluate.beside", "called served"),
    ('beside = [{ model = "m", name = "served-cpu-fp32" }]', "evaluate.beside", "called served-cpu-fp32"),
    ('beside = [{ model = "trained" }]', "evaluate.beside", "called trained"),
])
def test_what_an_evaluation_asks_besides_is_looked_at_before_anything_is_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: str, key: str, words: str,
) -> None:
    monkeypatch.delenv("NOBODYS_KEY", raising=False)
    monkeypatch.setattr(preflight, "require_machine", lambda recipe, facts: None)
    file = run.file.path
    file.write_text(f'{run.file.text}[deploy]\nconversion = ["cpu-int8", "cpu-fp32"]\n[evaluate]\n{said}\n')
    with pytest.raises(ConfigError, match=words) as raised:
        preflight.check(opened.open_run(file))
    assert str(file) in str(raised.value)
    assert key in str(raised.value)


def test_others_with_names_of_their_own_are_let_through(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "require_machine", lambda recipe, facts: None)
    run.file.path.write_text(
        f'{run.file.text}[deploy]\n[evaluate]\nbeside = [{{ model = "m" }}, {{ model = "m", name = "teacher" }}]\n')
    preflight.check(opened.open_run(run.file.path))


@pytest.mark.parametrize(("said", "raised", "words"), [
    ('[finetune.preferences]\ndata = ["pairs.jsonl"]', ConfigError, r"finetune\.preferences\.data.*pairs\.jsonl"),
    ('[distil.answers]\nteachers = [{ model = "m", endpoint = "http://127.0.0.1:1/v1" }]\nprompts = ["more.jsonl"]',
     ConfigError, r"distil\.answers\.prompts.*more\.jsonl"),
    ('[distil.answers]\nteachers = [{ model = "./teacher" }]', RefusedFile, "teacher"),
    ('[distil.answers]\nteachers = [{ model = "nobodys" }]', ModelNotFound, "nobodys"),
])
def test_files_and_models_that_later_stages_need_are_looked_at_before_anything_is_asked_or_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: str, raised: type[EdgedError], words: str,
) -> None:
    monkeypatch.setattr(preflight, "require_machine", lambda recipe, facts: None)
    run.file.path.write_text(f"{run.file.text}{said}\n")
    with pytest.raises(raised, match=words):
        preflight.check(opened.open_run(run.file.path))


@pytest.mark.parametrize("said", [
    '[distil.student]\ninit = "./smaller"', '[distil.student.soft]\nteachers = [{ model = "./smaller" }]'])
def test_models_that_a_student_needs_are_looked_at_first(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: str,
) -> None:
    monkeypatch.setattr(preflight, "require_machine", lambda recipe, facts: None)
    run.file.path.write_text(f"{run.file.text.replace('[finetune]', said)}\n")
    with pytest.raises(RefusedFile, match="smaller"):
        preflight.check(opened.open_run(run.file.path))


def test_the_files_of_all_members_are_looked_at_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "require_machine", lambda recipe, facts: None)
    other = run.file.path.with_name("other.toml")
    said = run.file.text.replace('name = "home"', 'name = "other"')
    other.write_text(said.replace('["a.jsonl"]', '["a.jsonl"]\ntest = ["test.jsonl"]'))
    group = run.file.path.with_name("group.toml")
    group.write_text('name = "group"\nbase = "./base"\nmembers = ["home.toml", "other.toml"]\n')
    with pytest.raises(ConfigError, match=r"other\.toml.*data\.test.*test\.jsonl"):
        preflight.check(opened.open_run(group))


def test_preferences_are_read_before_anything_is_asked_or_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "require_machine", lambda recipe, facts: None)
    right = '{"prompt": "x", "chosen": "y", "rejected": "z"}\n'
    (tmp_path / "pairs.jsonl").write_text(right)
    run.file.path.write_text(f'{run.file.text}[finetune.preferences]\ndata = ["pairs.jsonl"]\n')
    preflight.check(opened.open_run(run.file.path))
    (tmp_path / "pairs.jsonl").write_text(right + '{"prompt": "x", "chosen": "y"}\n')
    with pytest.raises(InvalidRequest, match=r"pairs\.jsonl:2: has no column for the worse answer"):
        preflight.check(opened.open_run(run.file.path))
