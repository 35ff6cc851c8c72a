"""The base of a training as a folder that transformers reads: brought once, checked, and found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edged.errors import BadReference, InvalidRequest, ModelNotFound, RefusedFile
from edged.toml_file import TomlFile
from tests.hf_folders import hf_files, put
from training.models import base_facts, base_folder, base_key, named
from training.recipe import Data, Recipe
from training.run import Run

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "no-store"))


def run_of(tmp_path: Path, base: str) -> Run:
    recipe = Recipe(name="x", base=base, data=Data(train=("t.jsonl",)))
    return Run(tmp_path / "run", recipe, TomlFile(tmp_path / "recipe.toml", "", {}))


def test_a_folder_counts_from_the_recipes_own(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files())
    folder = base_folder(run_of(tmp_path, "./base"))
    assert folder.is_absolute()
    assert folder.is_relative_to(tmp_path / "run" / "base")
    assert sorted(file.name for file in folder.iterdir()) == [
        "LICENSE", "config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").resolve() == tmp_path / "base" / "model.safetensors"


def test_it_is_brought_once(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files())
    run = run_of(tmp_path, "./base")
    made = base_folder(run).stat().st_ino
    assert base_folder(run).stat().st_ino == made
    assert base_folder(run, "./base").stat().st_ino == made


def test_a_changed_model_is_another_one(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files())
    run = run_of(tmp_path, "./base")
    key, folder = base_key(run), base_folder(run)
    os.utime(tmp_path / "base" / "model.safetensors", ns=(1, 1))
    assert base_key(run) != key
    assert base_folder(run) != folder


def test_what_a_killed_one_left_is_no_model(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files())
    run = run_of(tmp_path, "./base")
    (run.folder / "base" / f"{base_key(run)}.part" / "model").mkdir(parents=True)
    assert (base_folder(run) / "config.json").is_file()


def test_facts_have_the_digest_of_the_files(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files())
    put(tmp_path / "copy", hf_files())
    run = run_of(tmp_path, "./base")
    facts, copy = base_facts(run), base_facts(run, "./copy")
    assert facts.digest == copy.digest
    assert (facts.reference, facts.parameters, facts.origin) == ("./base", 32, None)


def test_code_never_lies_beside_the_weights(tmp_path: Path) -> None:
    put(tmp_path / "base", {**hf_files(), "modeling_x.py": b"raise SystemExit", "optimizer.pt": b"pickle"})
    assert not list(base_folder(run_of(tmp_path, "./base")).glob("*.p*"))


def test_a_configuration_that_names_code_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files(auto_map={"AutoModel": "x.Y"}))
    with pytest.raises(RefusedFile, match="auto_map"):
        base_folder(run_of(tmp_path, "./base"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    files = hf_files()
    del files["model.safetensors"]
    put(tmp_path / "base", {**files, "pytorch_model.bin": b"pickle"})
    with pytest.raises(RefusedFile, match="pickle"):
        base_folder(run_of(tmp_path, "./base"))


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "base", {**hf_files(), "modules.json": b"[]"})
    with pytest.raises(InvalidRequest, match="model for embed"):
        base_folder(run_of(tmp_path, "./base"))


@pytest.mark.parametrize(("said", "error", "words"), [
    ("./nothing", RefusedFile, "no folder"),
    ("./nothing.gguf", RefusedFile, "no file"),
    ("nobody", ModelNotFound, "edged list"),
    ("pypi:a==1#b", RefusedFile, "edged pull"),
    ("org/repo:Q4_0", RefusedFile, "in full"),
])
def test_what_there_is_not_is_told(tmp_path: Path, said: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        base_folder(run_of(tmp_path, said))


def test_a_folder_that_looks_like_a_repository_is_asked_about(tmp_path: Path) -> None:
    put(tmp_path / "models" / "base", hf_files())
    with pytest.raises(BadReference, match=r"write \./models/base"):
        base_folder(run_of(tmp_path, "models/base"))


@pytest.mark.parametrize(("said", "shown"), [
    ("/home/jo/models/smollm2", "./smollm2"), ("~/smollm2/", "./smollm2"), ("../models/smollm2.gguf", "./smollm2.gguf"),
    ("./smollm2", "./smollm2"), ("smollm2-135m@3", "smollm2-135m@3"), ("org/repo@main", "org/repo@main"),
])
def test_what_others_read_of_a_model_has_no_path_of_this_machine(said: str, shown: str) -> None:
    assert named(said) == shown
