"""Models served from engine environments: another build of an engine, beside the one that edged itself has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from edged.hardware.environments import python_of
from edged.types import LoadSpec
from tests.daemon import Daemon
from tests.real.engine_environments import copied_to

pytestmark = pytest.mark.real

PACKAGES = ["onnxruntime==1.31.1"]
CATALOG = """
[models.other]
environment = "other-build"
context = 128

[models.own]
context = 128

[models.nowhere]
environment = "not-there"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny_positions: LoadSpec) -> Iterator[Daemon]:
    made = Daemon(tmp_path_factory.mktemp("environments"))
    made.models_file.write_text(CATALOG)
    copied_to(made.home, "other-build", PACKAGES)
    with made:
        for name in ("other", "own", "nowhere"):
            source = made.folder / "sources" / name
            shutil.copytree(tiny_positions.path, source)
            told = made.edged("pull", str(source))
            assert told.returncode == 0, told.stderr
        yield made


def ask(daemon: Daemon, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Why?"}], "temperature": 0, "max_tokens": 8}
    return httpx.post(f"{daemon.base_url}/v1/chat/completions", json=body, timeout=60)


def answer(daemon: Daemon, model: str) -> str:
    told = ask(daemon, model)
    assert told.status_code == 200, told.text
    return str(told.json()["choices"][0]["message"]["content"])


def loaded(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in daemon.json("ps")}


def test_two_builds_of_one_engine_serve_at_the_same_time_and_each_is_attested(daemon: Daemon) -> None:
    assert answer(daemon, "other") == answer(daemon, "own")
    models = loaded(daemon)
    assert {name: (model["state"], model["engine_version"], model["environment"]) for name, model in models.items()
            if name != "nowhere"} == {
        "other": ("ready", "onnxruntime 1.31.1", "other-build"), "own": ("ready", "onnxruntime 1.32.0", None)}
    shown = daemon.edged("ps").stdout
    assert "onnxruntime 1.31.1 (other-build)" in shown
    [(python, _)] = [(worker.cmdline()[0], worker.pid) for worker in daemon.workers() if "-P" in worker.cmdline()]
    assert python == str(python_of(daemon.home, "other-build"))


def test_its_packages_come_before_those_beside_which_edged_is_installed(daemon: Daemon) -> None:
    """A worker starts in the folder that edged is imported from, which is that of all packages unless it is a
    checkout."""
    told = subprocess.run(
        [python_of(daemon.home, "other-build"), "-P", "-c", "import onnxruntime; print(onnxruntime.__version__)"],
        cwd=sysconfig.get_paths()["purelib"], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "1.31.1"


def test_one_that_is_missing_is_an_error_that_names_what_installs_it(daemon: Daemon) -> None:
    told = ask(daemon, "nowhere")
    assert told.status_code == 503
    assert "the engine environment not-there" in told.json()["error"]["message"]
    assert "`edged engine install not-there --package REQUIREMENT`" in told.json()["error"]["message"]
    report = json.loads(daemon.edged("doctor", "--json", EDGED_MODELS=str(daemon.models_file)).stdout)
    found = [finding for finding in report["findings"] if "not-there" in finding["what"]]
    assert [finding["level"] for finding in found] == ["problem"]


def test_list_and_doctor_run_it_and_tell_what_it_has(daemon: Daemon) -> None:
    own, other = daemon.json("engine", "list")
    assert (own["name"], own["usable"], own["software"]["versions"]["onnxruntime"]) == ("built-in", True, "1.32.0")
    assert (other["name"], other["usable"], other["software"]["versions"]["onnxruntime"]) == (
        "other-build", True, "1.31.1")


def test_one_that_a_loaded_model_runs_under_is_not_removed(daemon: Daemon) -> None:
    answer(daemon, "other")
    told = daemon.edged("engine", "remove", "other-build")
    assert told.returncode == 5
    assert "unload its model first" in told.stderr
    answer(daemon, "other")


def test_a_home_that_was_moved_serves_from_its_environments(daemon: Daemon) -> None:
    before = answer(daemon, "own")
    daemon.stop()
    moved = Daemon(daemon.folder / "moved")
    moved.folder.mkdir()
    daemon.home.rename(moved.home)
    shutil.copy(daemon.models_file, moved.models_file)
    try:
        with moved:
            assert [answer(moved, "own"), answer(moved, "other")] == [before, before]
            assert loaded(moved)["other"]["engine_version"] == "onnxruntime 1.31.1"
    finally:
        moved.home.rename(daemon.home)
        daemon.start()


def test_one_whose_python_is_gone_is_told_as_broken_and_serves_nothing(daemon: Daemon) -> None:
    assert daemon.edged("unload", "other").returncode == 0
    python = daemon.home / "engines" / "other-build" / "bin" / "python"
    kept = python.readlink()
    python.unlink()
    python.symlink_to("/nowhere/python3")
    try:
        told = ask(daemon, "other")
        assert told.status_code == 503
        assert "`edged engine install other-build" in told.json()["error"]["message"]
        [_, other] = daemon.json("engine", "list")
        assert not other["usable"]
        assert "/nowhere/python3" in other["trouble"]
        assert "`edged engine install other-build --package onnxruntime==1.31.1` makes it anew" in other["trouble"]
    finally:
        python.unlink()
        python.symlink_to(kept)
    assert daemon.edged("load", "other").returncode == 0


def test_once_it_is_idle_it_is_removed_and_its_model_says_what_is_missing(daemon: Daemon) -> None:
    assert daemon.edged("unload", "other").returncode == 0
    told = daemon.edged("engine", "remove", "other-build")
    assert told.returncode == 0, told.stderr
    assert [each["name"] for each in daemon.json("engine", "list")] == ["built-in"]
    told_by = ask(daemon, "other")
    assert told_by.status_code == 503
    assert "edged engine install other-build" in told_by.json()["error"]["message"]
    answer(daemon, "own")
