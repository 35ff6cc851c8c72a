"""`edged quality` on a store of a model with versions of every kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edged.cli.commands import run
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured, Speed
from edged.hardware.probe import probe_with
from edged.store import Store
from edged.store.entries import Manifest
from edged.store.lineage import Conversion, Quality, QualityLimits
from tests.models import fake_folder, install

pytestmark = pytest.mark.unit

LIMITS = QualityLimits(perplexity_ratio=1.1, top1_agreement=0.85, kl_divergence=0.1)
PASSED = Quality(
    reference="fp32 on onnxruntime, dequantized from Q4_1", text="calibration 0123456789ab", tokens=6144,
    kl_divergence=0.0123, top1_agreement=0.971, perplexity=20.2, reference_perplexity=20.0, limits=LIMITS, tasks=50,
    task_accuracy=0.58, reference_task_accuracy=0.6)
LACKING = replace(
    PASSED, kl_divergence=0.3, perplexity=30.0, tasks=0, task_accuracy=None, reference_task_accuracy=None,
    lacking=("perplexity ratio 1.500, at most 1.1", "KL divergence 0.300, at most 0.1"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def version(store: Store, rows: int, quality: Quality | None, *, base_bytes: int | None = None, precision: str = "int4",
            never_run: bool = False, active: bool = True) -> Manifest:
    folder = fake_folder(store.home.parent / "m", rows=rows)
    made = install(store, str(folder))
    conversion = Conversion(recipe="cpu-int4", base_bytes=base_bytes) if base_bytes else None
    manifest = replace(made, quality=quality, conversion=conversion, precision=precision, never_run=never_run)
    store.amend(manifest)
    if active:
        store.activate("m", manifest.version)
    return manifest


def told(store: Store, capsys: pytest.CaptureFixture[str], *more: str, name: str = "m") -> str:
    capsys.readouterr()
    assert run(["quality", name, "--home", str(store.home), *more]) == 0
    return capsys.readouterr().out


def row(text: str, manifest: Manifest) -> str:
    [found] = [line for line in text.splitlines() if line.startswith(manifest.version) and " lacks: " not in line]
    return re.sub("  +", " | ", found)


def test_each_version_has_its_figures_and_its_verdict(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    plain = version(store, 1, None, precision="Q4_1")
    good = version(store, 2, PASSED, base_bytes=40, precision="int8")
    bad = version(store, 3, LACKING, base_bytes=100, active=False)
    accepted = version(store, 4, replace(LACKING, accepted_loss=True))
    untried = version(store, 5, None, never_run=True)
    store.activate("m", good.version)
    text = told(store, capsys)
    assert re.split("  +", text.splitlines()[0]) == [
        "VERSION", "ENGINE", "SIZE", "OF FP32", "PERPLEXITY", "TOP-1", "KL", "TASKS", "AGAINST", "GATE", "ACTIVE"]
    assert row(text, plain) == f"{plain.version} | fake Q4_1 | 11 B | - | - | - | - | - | - | not measured | -"
    assert row(text, good) == (f"{good.version} | fake int8 | 11 B | 27.5% | x1.010 | 97.1% | 0.0123 | "
                               "29 of 50 (30 before) | (1) | passed | active")
    assert row(text, bad).endswith("| 11.0% | x1.500 | 97.1% | 0.3000 | - | (1) | lacking | -")
    assert row(text, accepted).endswith("(1) | loss accepted | -")
    assert row(text, untried).endswith("- | never run | -")
    assert "(1) against fp32 on onnxruntime, dequantized from Q4_1, over 6,144 tokens of calibration 01234" in text
    assert f"{bad.version} lacks: perplexity ratio 1.500, at most 1.1; KL divergence 0.300, at most 0.1" in text


def test_every_reference_is_named_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    version(store, 1, PASSED)
    version(store, 2, LACKING)
    other = version(store, 3, replace(PASSED, reference="F32 on llama.cpp"))
    text = told(store, capsys)
    assert text.count("against fp32 on onnxruntime") == text.count("against F32 on llama.cpp") == 1
    assert "| (2) |" in row(text, other)


def test_speeds_are_those_of_this_machine(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = version(store, 1, PASSED), version(store, 2, None)
    assert "TOKENS/S" not in told(store, capsys)
    here = fingerprint(probe_with(store.home))
    speed = Speed(prefill=300, decode=61.4, decode_many=100, streams=4, threads=2, device="cpu", engine_version="1",
                  taken=0)
    Measured(store.home, here).record(one.digest, "cpu", speed=speed)
    Measured(store.home, here).record(one.digest, "cuda", speed=replace(speed, decode=400.0))
    Measured(store.home, "another machine").record(other.digest, "cpu", speed=speed)
    text = told(store, capsys)
    assert "| 400 on cuda |" in row(text, one)
    assert "| 11 B | - | " in row(text, other)


def test_the_bars_are_as_long_as_size_and_loss(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    version(store, 1, PASSED, base_bytes=44, precision="int8")
    version(store, 2, LACKING, base_bytes=44, precision="int4")
    version(store, 3, replace(PASSED, perplexity=19.9), precision="fp32")
    lines = {line.split("  ")[0]: line for line in told(store, capsys).split("\n\n")[1].splitlines()[1:]}
    bars = {name: [len(bar) for bar in re.findall("#+", line)] for name, line in lines.items()}
    assert bars == {"fake int8": [7, 1], "fake int4": [7, 28], "fake fp32": [7], "32-bit weights": [28]}
    assert lines["fake int8"].endswith("# +1.0%")
    assert lines["fake int4"].endswith("# +50.0%")
    assert lines["fake fp32"].endswith(" -0.5%")


def test_json_has_all_of_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    made = version(store, 1, PASSED, base_bytes=44)
    [line] = json.loads(told(store, capsys, "--json"))
    expected: dict[str, Any] = {"version": made.version, "active": True, "size": 11, "base_bytes": 44, "share": 0.25,
                                "gate": "passed", "perplexity_ratio": pytest.approx(1.01), "speed": None}
    assert {key: line[key] for key in expected} == expected
    assert line["quality"]["limits"]["perplexity_ratio"] == 1.1


def test_a_name_whose_only_version_fell_short_is_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """It was converted under a new name, and nothing answers to that yet."""
    made = version(store, 1, None)
    fresh = replace(made, name="fresh", quality=LACKING)
    store.publish(fresh, activate=False)
    text = told(store, capsys, name="fresh")
    assert row(text, fresh).endswith("lacking | -")
    assert run(["show", "fresh", "--home", str(store.home)]) == 0


def test_a_name_that_is_not_there_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quality", "nothing", "--home", str(store.home)]) == 3
    assert "not installed" in capsys.readouterr().err
