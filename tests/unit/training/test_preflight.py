from __future__ import annotations

import os
from pathlib import Path

import pytest

from edged.errors import DeviceUnavailable
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
