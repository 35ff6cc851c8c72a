"""Conversions on disk: `jobs/<id>/` holds what was asked (`spec.json`) until it has ended (`result.json`), so that a
conversion goes on after a power cut. `converters` does the work in that folder, and writes the result.

The identity is a digest of what was asked: who asks for the same again joins the job that runs, or goes on with what
a killed one has left.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from edged.errors import EdgedError
from edged.store import files, locks
from edged.store.entries import JobFailed
from edged.store.lineage import ConversionSpec
from edged.store.paths import Layout

SPEC_FILE = "spec.json"
RESULT_FILE = "result.json"
#: What the libraries of a conversion print.
LOG_FILE = "log.txt"
LOG_TAIL_BYTES = 64 << 10


class JobResult(Struct, frozen=True, kw_only=True):
    """How a conversion ended. version: of the model that was made, where it was."""

    state: Literal["done", "failed", "cancelled"]
    name: str
    version: str | None = None
    error: JobFailed | None = None


def identity(spec: ConversionSpec) -> str:
    """16 hex digits: the beginning of the sha256 of the spec as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:16]


def folder_of(layout: Layout, spec: ConversionSpec) -> Path:
    return layout.jobs / identity(spec)


def begin(layout: Layout, spec: ConversionSpec) -> Path:
    """The job's folder, made where there is none; what an earlier run of the same job has left is kept, its result is
    forgotten."""
    folder = folder_of(layout, spec)
    files.make_folder(folder)
    if not (folder / SPEC_FILE).exists():
        _write(layout, folder / SPEC_FILE, msgspec.json.encode(spec, order="sorted"))
    with contextlib.suppress(FileNotFoundError):
        (folder / RESULT_FILE).unlink()
    return folder


def read_spec(folder: Path) -> ConversionSpec:
    """Raises OSError or msgspec.MsgspecError where there is no such job."""
    return msgspec.json.decode((folder / SPEC_FILE).read_bytes(), type=ConversionSpec)


def write_result(layout: Layout, folder: Path, result: JobResult) -> None:
    _write(layout, folder / RESULT_FILE, msgspec.json.encode(result))


def abandon(layout: Layout, folder: Path) -> None:
    """Nobody wants it any more: what it has made so far goes, what was asked and the log stay."""
    for entry in folder.iterdir():
        if entry.is_dir():
            files.remove_tree(entry)
        elif entry.name not in (SPEC_FILE, LOG_FILE):
            files.remove(entry)
    write_result(layout, folder, JobResult(state="cancelled", name=read_spec(folder).name))


def log_tail(folder: Path, limit_bytes: int = LOG_TAIL_BYTES) -> str:
    """Whole lines from the end of the job's log; empty where there is none."""
    try:
        with (folder / LOG_FILE).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return text if size <= limit_bytes else text.partition("\n")[2]


def result_of(folder: Path) -> JobResult | None:
    try:
        return msgspec.json.decode((folder / RESULT_FILE).read_bytes(), type=JobResult)
    except (OSError, msgspec.MsgspecError):
        return None


def unfinished(layout: Layout) -> list[ConversionSpec]:
    """Conversions that were asked for and have not ended: what a crash or a power cut broke off; oldest first."""
    found: list[tuple[float, ConversionSpec]] = []
    with contextlib.suppress(OSError):
        for folder in layout.jobs.iterdir():
            with contextlib.suppress(OSError, msgspec.MsgspecError, EdgedError):
                if not (folder / RESULT_FILE).exists():
                    found.append(((folder / SPEC_FILE).stat().st_mtime, read_spec(folder)))
    return [spec for _, spec in sorted(found, key=lambda pair: pair[0])]


def _write(layout: Layout, path: Path, data: bytes) -> None:
    """Under the store's lock: the garbage collector takes away what it finds half written without it."""
    with locks.lock(layout.store_lock):
        files.publish_bytes(path, data + b"\n", layout.tmp)
