from __future__ import annotations

import os
from pathlib import Path

import pytest

from edged.errors import ConfigError, DeviceUnavailable
from edged.hardware.facts import Facts
from tests.hf_folders import hf_files, put
from training import opened, preflight
from training.recipe import Recipe
from training.run import Run

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Run:
    put(tmp_path / "base", hf_files())
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
