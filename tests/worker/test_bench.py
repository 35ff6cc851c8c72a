"""`edged bench`: what is measured by trials, what is chosen by it, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edged.cli import bench as command
from edged.cli import subject
from edged.cli.hardware import hardware
from edged.hardware.facts import Facts, Gpu, Memory
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured
from edged.store import Store
from edged.store.entries import Manifest
from edged.store.lineage import ConvertedSource, Quality, QualityLimits, Target
from tests.worker.daemon.rig import PLAIN, install

pytestmark = pytest.mark.worker

WITH_CARD = replace(PLAIN, gpus=(Gpu(vendor="nvidia", name="RTX 3060", memory_bytes=12 << 30, driver="550"),))
Run = Callable[..., dict[str, Any]]


class Box:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = Store(home)
        self.facts: Facts = PLAIN

    def install(self, *, target: Target = "cpu", **knobs: Any) -> Manifest:
        return install(self.store, "m", target=target, **knobs)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box(tmp_path / "home")
    models_file = tmp_path / "models.toml"
    models_file.write_text("")
    for name, value in (("HOME", made.home), ("SOCKET", "off"), ("MODELS", models_file)):
        monkeypatch.setenv(f"EDGED_{name}", str(value))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(subject, "probe_with", lambda home: made.facts)
    return made


@pytest.fixture
def bench(box: Box, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def run(**said: Any) -> dict[str, Any]:
        command.bench("m", seconds=0.1, json=True, **said)
        told: dict[str, Any] = json.loads(capfdbinary.readouterr().out)
        return told

    return run


def test_the_version_that_is_really_faster_is_measured_so_and_serves(box: Box, bench: Run) -> None:
    fast, slow = box.install(token_ms=0.2), box.install(token_ms=2)
    assert box.store.active("m") == slow.version
    told = bench()
    first, second = told["ranking"]
    assert (first["version"], second["version"]) == (fast.version, slow.version)
    assert first["reason"].startswith("measured here: ")
    assert first["speed"]["decode"] > 3 * second["speed"]["decode"]
    assert (told["active"], told["activated"]) == (fast.version, True)
    assert [each.by for each in box.store.history("m")][-1] == "bench"
    assert Measured(box.home, fingerprint(PLAIN)).get(fast.digest, "cpu").speed is not None
    again = bench()
    assert (again["active"], again["activated"]) == (fast.version, False)
    assert "active already" in again["outcome"]


def test_it_leaves_a_version_that_somebody_activated_by_hand(box: Box, bench: Run) -> None:
    fast, slow = box.install(token_ms=0.2), box.install(token_ms=2)
    box.store.activate("m", fast.version)
    box.store.activate("m", slow.version)
    told = bench()
    assert (told["active"], told["activated"]) == (slow.version, False)
    assert f"`edged activate m@{fast.version}` changes that" in told["outcome"]


def test_it_keeps_what_serves_if_it_is_told_so(box: Box, bench: Run) -> None:
    fast, slow = box.install(token_ms=0.2), box.install(token_ms=2)
    told = bench(keep=True)
    assert (told["ranking"][0]["version"], told["active"]) == (fast.version, slow.version)


@pytest.mark.parametrize("accepted", [False, True])
def test_the_fastest_of_bad_quality_is_not_taken_unless_its_loss_was_accepted(
    box: Box, bench: Run, accepted: bool
) -> None:
    bad, good = box.install(token_ms=0.2), box.install(token_ms=1)
    box.store.amend(replace(bad, quality=Quality(
        reference="itself", text="t", tokens=1, kl_divergence=9, top1_agreement=0.1, perplexity=9,
        reference_perplexity=1, limits=QualityLimits(perplexity_ratio=1, top1_agreement=1, kl_divergence=0),
        lacking=("top-1 agreement 10 %, at least 100 %",), accepted_loss=accepted)))
    told = bench()
    assert told["active"] == (bad if accepted else good).version
    if not accepted:
        rejected = told["ranking"][-1]
        assert (rejected["version"], rejected["fits"]) == (bad.version, False)
        assert rejected["reason"] == "its gate did not pass: top-1 agreement 10 %, at least 100 %"


def test_a_conversion_whose_quality_was_never_measured_is_not_taken(box: Box, bench: Run) -> None:
    blind = box.install(token_ms=0.2)
    box.store.amend(replace(blind, source=ConvertedSource(base="b", base_digest="d")))
    good = box.install(token_ms=1)
    told = bench()
    assert told["active"] == good.version
    rejected = told["ranking"][-1]
    assert (rejected["version"], rejected["fits"]) == (blind.version, False)
    assert "its quality was never measured" in rejected["reason"]


def test_what_would_not_fit_into_memory_is_not_loaded_to_see(box: Box, bench: Run) -> None:
    box.facts = replace(PLAIN, memory=Memory(total=600 << 20, available=500 << 20))
    box.install(token_ms=1)
    told = bench()
    assert told["failed"] == []
    assert [(row["fits"], row["speed"]) for row in told["ranking"]] == [(False, None)]
    assert told["ranking"][0]["reason"].startswith("needs ")
    assert "no version can be served here" in told["outcome"]


def test_a_version_built_for_a_device_runs_for_the_first_time_and_then_no_longer_never_ran(
    box: Box, bench: Run, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    box.facts = WITH_CARD
    plain = box.install(token_ms=1)
    built = box.install(target="cuda", token_ms=1, device_token_ms=0.1)
    box.store.amend(replace(built, never_run=True))
    box.store.activate("m", plain.version, "convert")
    hardware("m", json=True)
    before = json.loads(capfdbinary.readouterr().out)["ranking"]
    assert [row["version"] for row in before if row["fits"]] == [plain.version]
    assert {row["reason"] for row in before if row["version"] == built.version} == {
        "built for cuda and never run: its self-test comes first, which `edged bench m` makes"}
    told = bench()
    assert (told["ranking"][0]["provider"], told["active"]) == ("cuda", built.version)
    assert not box.store.manifest("m", built.version).never_run


def test_a_lying_device_is_rejected_however_fast_it_is(box: Box, bench: Run) -> None:
    box.facts = WITH_CARD
    box.install(target="cuda", token_ms=1, device_token_ms=0.1, noise=10)
    told = bench()
    assert [(row["provider"], row["fits"]) for row in told["ranking"]] == [("cpu", True), ("cuda", False)]
    assert "cuda answers wrongly" in told["ranking"][1]["reason"]


def test_what_crashes_is_told_and_the_rest_is_measured(box: Box, bench: Run) -> None:
    good = box.install(token_ms=1)
    broken = box.install(crash_on_load=True)
    told = bench()
    (failed,) = told["failed"]
    assert failed.startswith(f"m@{broken.version} on cpu: its trial was killed by signal 11")
    assert told["active"] == good.version


def test_only_what_is_required_is_measured(box: Box, bench: Run) -> None:
    box.facts = WITH_CARD
    (box.home.parent / "models.toml").write_text('[models.m]\nrequire = "cuda"\n')
    box.install(token_ms=1)
    box.install(target="cuda", token_ms=1)
    told = bench()
    assert [(row["provider"], row["fits"]) for row in told["ranking"]] == [
        ("cuda", True), ("cpu", False), ("cpu", False)]
    assert told["ranking"][1]["reason"] == "runs on cpu, and cuda is required"
    assert told["ranking"][1]["speed"] is None
