"""The base of a training from a hub: pinned, brought once, and never more than what may be taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.errors import EdgedError, RefusedFile
from edged.toml_file import TomlFile
from tests.hf_folders import hf_files
from tests.hub import Hub
from training.models import base_facts, base_folder
from training.recipe import Data, Recipe
from training.run import Run

pytestmark = pytest.mark.faults


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    with Hub() as hub:
        for name, data in hf_files().items():
            hub.add("org/model", name, data)
        monkeypatch.setenv("EDGED_HF_ENDPOINT", hub.settings.endpoint)
        yield hub


def run_of(folder: Path) -> Run:
    return Run(folder / "run", Recipe(name="x", base="org/model", data=Data(train=("t",))),
               TomlFile(folder / "recipe.toml", "", {}))


def test_a_repository_is_brought_once_and_pinned(tmp_path: Path, hub: Hub) -> None:
    hub.add("org/model", "modeling.py", b"code")
    folder = base_folder(run_of(tmp_path))
    assert base_facts(run_of(tmp_path)).reference == f"org/model@{hub.commit('org/model')}"
    assert sorted(file.name for file in folder.iterdir()) == [
        "LICENSE", "config.json", "model.safetensors", "tokenizer.json"]
    asked = len(hub.requests)
    assert base_folder(run_of(tmp_path)) == folder
    assert len(hub.requests) == asked


def test_code_is_refused_before_the_weights_come(tmp_path: Path, hub: Hub) -> None:
    hub.add("org/model", "config.json", hf_files(auto_map={"AutoModel": "x.Y"})["config.json"])
    with pytest.raises(RefusedFile, match="auto_map"):
        base_folder(run_of(tmp_path))
    assert hub.sent_bytes("model.safetensors") == 0


def test_a_hub_that_fails_leaves_no_base_and_the_next_time_it_is_brought(tmp_path: Path, hub: Hub) -> None:
    hub.faults.wrong_bytes.add("model.safetensors")
    with pytest.raises(EdgedError):
        base_folder(run_of(tmp_path))
    hub.faults.wrong_bytes.clear()
    assert (base_folder(run_of(tmp_path)) / "model.safetensors").is_file()
