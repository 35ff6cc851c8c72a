"""The base of a training as a folder that transformers reads: brought once, checked, and found again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edged.errors import BadReference, InvalidRequest, ModelNotFound, RefusedFile
from edged.store.blobs import hash_file
from edged.toml_file import TomlFile
from tests.hf_folders import hf_files, put, weights
from training.models import base_facts, base_folder, base_key, forget_others, named
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
    (tmp_path / "base" / "model.safetensors").write_bytes(weights(**{"model.w": (4, 8)}))
    assert base_key(run) != key
    assert base_folder(run) != folder


def test_the_same_contents_are_the_same_model_whenever_they_were_written_and_however_they_were_measured(
    tmp_path: Path,
) -> None:
    put(tmp_path / "base", {**hf_files(), "edged-training.json": b"{}"})
    (tmp_path / "x.gguf").write_bytes(b"weights")
    run = run_of(tmp_path, "./base")
    key, folder, of_file = base_key(run), base_folder(run), base_key(run, "./x.gguf")
    shutil.rmtree(tmp_path / "base")
    put(tmp_path / "base", {**hf_files(), "edged-training.json": b'{"metrics": 1}'})
    (tmp_path / "x.gguf").rename(tmp_path / "old")
    (tmp_path / "x.gguf").write_bytes(b"weights")
    assert (base_key(run), base_folder(run), base_key(run, "./x.gguf")) == (key, folder, of_file)
    assert (folder / "model.safetensors").read_bytes() == weights()
    (tmp_path / "x.gguf").write_bytes(b"changed")
    assert base_key(run, "./x.gguf") != of_file


def test_weights_are_read_once_for_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("training.digests.hash_file", counted)
    put(tmp_path / "base", hf_files())
    key = base_key(run_of(tmp_path, "./base"))
    assert base_key(run_of(tmp_path, "./base")) == key
    assert sorted(read) == ["LICENSE", "config.json", "model.safetensors", "tokenizer.json"]
    (tmp_path / "run" / "base" / "digests.json").write_text('{"half')
    assert base_key(run_of(tmp_path, "./base")) == key
    assert len(read) == 8


def test_a_run_folder_that_is_elsewhere_has_the_same_keys_and_whole_models(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    put(here / "base", hf_files())
    key, folder = base_key(run_of(here, "./base")), base_folder(run_of(here, "./base"))
    shutil.copytree(here, there, symlinks=True)
    shutil.rmtree(here)
    moved = base_folder(run_of(there, "./base"))
    assert base_key(run_of(there, "./base")) == key
    assert moved.relative_to(there) == folder.relative_to(here)
    assert (moved / "model.safetensors").resolve() == there / "base" / "model.safetensors"


def test_what_was_brought_whole_is_gone_on_with_where_the_base_is_not(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    put(here / "base", hf_files())
    key, _ = base_key(run_of(here, "./base")), base_folder(run_of(here, "./base"))
    shutil.copytree(here / "run", there / "run", symlinks=False)
    shutil.copytree(here / "run", tmp_path / "links" / "run", symlinks=True)
    shutil.rmtree(here)
    assert base_key(run_of(there, "./base")) == key
    assert (base_folder(run_of(there, "./base")) / "model.safetensors").read_bytes() == weights()
    assert base_facts(run_of(there, "./base")).parameters == 32
    with pytest.raises(RefusedFile, match="no folder"):
        base_folder(run_of(tmp_path / "links", "./base"))


def test_what_there_was_of_other_models_goes(tmp_path: Path) -> None:
    put(tmp_path / "base", hf_files())
    put(tmp_path / "teacher", hf_files(hidden_size=4))
    run = run_of(tmp_path, "./base")
    old, teacher = base_folder(run).parent, base_folder(run, "./teacher").parent
    forget_others(run, [None, "./teacher"])
    assert old.is_dir()
    (tmp_path / "base" / "config.json").write_bytes(hf_files(hidden_size=2)["config.json"])
    forget_others(run, [None, "./nothing"])
    assert old.is_dir()
    forget_others(run, [None, "./teacher"])
    assert not old.exists()
    assert teacher.is_dir()
    assert base_folder(run).parent.is_dir()
    forget_others(run, [None])
    assert not teacher.exists()


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
