"""Conversions of stand-in stages in a store of a test, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.store import Store, job_folders
from edged.store.entries import JobLine
from edged.store.lineage import ConversionSpec
from tests.faults.stand_in_conversion import FILE, SIZE
from tests.models import contents, gguf_bytes

ROOT = Path(__file__).parents[2]
SPEC = ConversionSpec(name="m", source="/played", adapters=("/played/lora",), recipe="gguf-q4_k_m")
RESULT = {FILE: gguf_bytes(1, SIZE), "LICENSE": b"a licence"}
ALL = ["source", "merge", "convert", "reference", "publish", "gate", "activate"]

_line = msgspec.json.Decoder(JobLine)


def asked(home: Path, spec: ConversionSpec = SPEC) -> Path:
    """The folder of a job that is still to be done."""
    return job_folders.begin(Store(home).layout, spec)


def started(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """`python -m converters FOLDER` with played stages, as the daemon starts it."""
    said = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EDGED_MODELS": "off", "EDGED_HF_TOKEN": "hf_canary",
            "CONVERSION_TRACE": str(trace_of(folder)), **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.stand_in_conversion", str(folder), *arguments], cwd=ROOT, env=said,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, list[JobLine]]:
    out, err = process.communicate(timeout=60)
    assert err == b""
    return process.returncode, [_line.decode(line) for line in out.splitlines()]


def trace_of(folder: Path) -> Path:
    return folder.parents[1].with_suffix(f".{folder.name}")


def begun(folder: Path) -> list[str]:
    """The stages that have begun, in order, since the last time somebody asked."""
    trace = trace_of(folder)
    lines = trace.read_text().splitlines() if trace.exists() else []
    trace.unlink(missing_ok=True)
    return lines


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_done(home: Path, folder: Path, result: dict[str, bytes] = RESULT) -> None:
    """One version, whole and active, and nothing else of the job anywhere."""
    store = Store(home)
    assert store.names() == ["m"]
    [manifest] = store.versions("m")
    assert store.active("m") == manifest.version
    assert manifest.quality is not None
    assert manifest.conversion is not None
    assert [stage.name for stage in manifest.conversion.stages] == [stage for stage in ALL if stage != "activate"]
    assert contents(store.folder(manifest)) == result
    assert store.verify() == []
    assert kept(folder) == {"spec.json", "result.json", "log.txt"}
    told = job_folders.result_of(folder)
    assert told is not None
    assert (told.state, told.version) == ("done", manifest.version)
    check_clean(store, {entry.sha256 for entry in manifest.files})


def check_clean(store: Store, blobs: Sequence[str] | set[str] = ()) -> None:
    assert {path.name.removeprefix("sha256-") for path in (store.home / "blobs").iterdir()} == set(blobs)
    assert list((store.home / "tmp").iterdir()) == []
