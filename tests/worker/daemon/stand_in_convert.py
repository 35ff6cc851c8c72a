"""A conversion without a model: prints lines as `converters` does; its recipe says how it goes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from edged.store import job_folders
from edged.store.entries import FileEntry, JobLine, JobProgress, Manifest
from edged.store.job_folders import JobResult
from edged.store.lineage import Conversion, ConvertedSource
from edged.store.paths import Layout


def say(line: JobLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    folder = Path(sys.argv[-1])
    layout, spec = Layout(Path(os.environ["EDGED_HOME"])), job_folders.read_spec(folder)
    stage = folder / "merge"
    stage.mkdir(exist_ok=True)
    (stage / "model.safetensors").write_bytes(b"weights")
    (folder / job_folders.LOG_FILE).write_text("a library said something\n")
    say(JobLine(progress=JobProgress(stage="merge", fraction=0.5)))
    if spec.recipe == "endless":
        time.sleep(600)
    say(JobLine(manifest=Manifest(
        name=spec.name, version="1" * 12, digest="1" * 64, engine="fake", precision="fake", file="f",
        files=(FileEntry(path="f", size=5, sha256="0" * 64),),
        source=ConvertedSource(base=spec.source, base_digest="2" * 64), reference=spec.source, created=0.0,
        conversion=Conversion(recipe=spec.recipe))))
    job_folders.write_result(layout, folder, JobResult(state="done", name=spec.name, version="1" * 12))
    return 0


if __name__ == "__main__":
    sys.exit(main())
