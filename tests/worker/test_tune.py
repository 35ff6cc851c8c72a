"""`edged tune`: what it finds by trials, keeps, and what is served with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edged.cli import subject
from edged.cli import tune as command
from edged.cli.hardware import hardware
from edged.cli.show import show
from edged.errors import Conflict, ModelNotFound, UnsupportedTask
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured
from edged.store import Store
from edged.store.entries import Manifest
from edged.types import Tuning
from tests.worker.daemon.rig import PLAIN, Rig, install

pytestmark = pytest.mark.worker

Tune = Callable[..., dict[str, Any]]


class Box:
    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.store = Store(self.home)
        self.models_file = folder / "models.toml"
        self.models_file.write_text("")
        self.measured = Measured(self.home, fingerprint(PLAIN))

    def install(self, **knobs: Any) -> Manifest:
        return install(self.store, "m", **{"rows": 2, "context": 1024, "step_ms": 4, **knobs})

    def tuning(self, manifest: Manifest) -> Tuning | None:
        return self.measured.get(manifest.digest, "cpu").tuning


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box(tmp_path)
    for name, value in (("HOME", made.home), ("SOCKET", "off"), ("MODELS", made.models_file)):
        monkeypatch.setenv(f"EDGED_{name}", str(value))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(subject, "probe_with", lambda home: PLAIN)
    monkeypatch.setattr("edged.hardware.probe.probe_with", lambda home: PLAIN)
    monkeypatch.setattr("edged.daemon.tuning.PART_S", 0.015)
    return made


@pytest.fixture
def tune(capfdbinary: pytest.CaptureFixture[bytes]) -> Tune:
    def run(**said: Any) -> dict[str, Any]:
        capfdbinary.readouterr()
        command.tune("m", **{"seconds": 120, "busy": True, "json": True, **said})
        told: dict[str, Any] = json.loads(capfdbinary.readouterr().out)
        return told

    return run


def test_the_options_that_are_faster_are_found_and_kept(box: Box, tune: Tune) -> None:
    manifest = box.install(threads=2, best_threads=1, dawdle=True)
    told = tune()
    assert told["tuning"]["threads"] == 1
    assert told["tuning"]["options"] == {"batch_threads": 1, "dawdle": False}
    assert told["tuning"]["gain"] > 1.5
    kept = {one["option"]: one["value"] for one in told["tried"] if one["kept"]}
    assert kept == {"threads": 1, "batch_threads": 1, "dawdle": False}
    assert "kept: threads 1, batch_threads 1, dawdle false" in told["outcome"]
    tuning = box.tuning(manifest)
    assert tuning is not None
    assert tuning.chosen == {"threads": 1, "batch_threads": 1, "dawdle": False}


def test_defaults_that_are_best_stay_and_that_is_kept_too(box: Box, tune: Tune) -> None:
    manifest = box.install(threads=2, best_threads=2)
    told = tune()
    assert not any(one["kept"] for one in told["tried"])
    assert {(one["option"], one["value"]) for one in told["tried"]} >= {("threads", 1), ("dawdle", True)}
    assert "the engine's own options are the fastest here" in told["outcome"]
    tuning = box.tuning(manifest)
    assert tuning is not None
    assert tuning.chosen == {}


def test_what_models_toml_says_is_not_tried(box: Box, tune: Tune) -> None:
    box.models_file.write_text("[models.m]\nthreads = 2\n[models.m.options]\ndawdle = true\n")
    box.install(threads=2, best_threads=1)
    told = tune()
    assert told["tried"] == []
    assert "threads" not in told["tuning"]
    assert "options" not in told["tuning"]


def test_a_value_by_which_the_process_dies_or_refuses_is_told(
    box: Box, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edged.daemon import tuning
    from edged.hardware.tuning import Option

    monkeypatch.setattr(tuning, "options", lambda *said, **more: [
        Option("crash_on_load", (True,)), Option("refuse", ("no such thing",))])
    box.install()
    told = tune()
    crashed, refused = told["tried"]
    assert crashed["note"].startswith("it failed: its trial was killed by signal 11")
    assert refused["note"] == "it failed: no such thing"


def test_reset_forgets_it(box: Box, tune: Tune) -> None:
    manifest = box.install(threads=2)
    box.measured.record(manifest.digest, "cpu", tuning=Tuning(threads=1))
    told = tune(reset=True)
    assert told["outcome"].startswith("forgotten: threads 1")
    assert Measured(box.home, fingerprint(PLAIN)).get(manifest.digest, "cpu").tuning is None
    assert tune(reset=True)["outcome"].startswith("nothing was measured")


def test_a_busy_machine_is_refused(box: Box, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    from edged.hardware.processors import Share

    box.install(threads=2)
    monkeypatch.setattr(command, "shares", lambda before, after: [Share(2, 1.3)])
    with pytest.raises(Conflict, match=r"other programs use 1\.3 processors"):
        tune(busy=False)


def test_models_that_write_no_text_and_those_that_are_not_there_are_refused(box: Box, tune: Tune) -> None:
    with pytest.raises(ModelNotFound):
        tune()
    box.install(task="embed")
    with pytest.raises(UnsupportedTask):
        tune()


def test_what_was_found_is_shown(box: Box, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    manifest = box.install(threads=2)
    box.measured.record(manifest.digest, "cpu", tuning=Tuning(threads=1, gain=1.5))
    words = "threads 1 (measured by `edged tune`, 1.50 x the defaults)"
    show("m")
    assert f"tuned        on cpu: {words}" in capfdbinary.readouterr().out.decode()
    hardware("m")
    assert f"{manifest.version} on cpu is served with {words}" in capfdbinary.readouterr().out.decode()


async def test_a_load_takes_what_was_found_but_for_what_models_toml_says(tmp_path: Path) -> None:
    async with Rig(tmp_path, catalog="[models.said]\nthreads = 2\n") as rig:
        for name in ("m", "said"):
            manifest = rig.install(name, threads=2)
            Measured(rig.store.home, fingerprint(PLAIN)).record(
                manifest.digest, "cpu", tuning=Tuning(threads=1, options={"batch_threads": 1}))
            await rig.answer(name)
        assert rig.router.status("m").threads == 1
        assert rig.router.status("said").threads == 2
        tuning = rig.router.status("m").tuning
        assert tuning is not None
        assert tuning.threads == 1


async def test_the_first_load_measures_and_the_next_one_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the tests is never quiet for long: what the worker says then is kept, whatever it is."""
    async with Rig(tmp_path) as rig:
        manifest = rig.install("m", threads=2, best_threads=1, step_ms=1)
        await rig.answer("m")
        first = rig.router.status("m").tuning
        await rig.router.unload("m", force=False)
        kept = Measured(rig.store.home, fingerprint(PLAIN)).get(manifest.digest, "cpu").tuning
        assert kept == first
        if kept is not None:
            await rig.answer("m")
            assert rig.router.status("m").tuning == first
