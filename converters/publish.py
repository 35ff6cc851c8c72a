"""The converted files into the store, as a version that nothing serves yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from converters.child import Tell
from converters.encoder_export import GRAPH
from converters.record import engine_of, settings_of, tools_of
from converters.refuse import is_licence
from converters.work import Work
from edged.errors import ConversionFailed
from edged.store import clone, kinds, onnx_paths
from edged.store.blobs import PIECE_BYTES, Part, Receiver, key_of
from edged.store.entries import FileEntry, Manifest
from edged.store.lineage import Conversion, ConvertedSource, Stage, Training
from edged.store.manifests import digest_of
from edged.store.report import Report
from edged.types import Task

STAGE = "publish"


def publish(
    work: Work, tell: Tell, *, source: ConvertedSource, stages: Sequence[Stage], made: Path, licences: Path,
    parameters: int, license: str | None, never_run: bool, task: Task,
    training: Training | None,
) -> str:
    """Returns the version. made: the folder of the converted files. licences: a folder whose licences go along."""
    report = Report(lambda moment: tell(msgspec.structs.replace(moment, stage=STAGE)))
    paths = _listed(made)
    file = entry_file(made, paths, task)
    beside = {path.name: path for path in sorted(licences.iterdir()) if is_licence(path.name)} if licences.is_dir() \
        else {}
    wanted = {path: made / path for path in paths} | {name: path for name, path in beside.items() if name not in paths}
    report.total(sum(path.stat().st_size for path in wanted.values()))
    with work.store.receiver() as receiver:
        entries = tuple(_received(work, path, real, receiver, report) for path, real in sorted(wanted.items()))
        digest = digest_of(entries)
        manifest = Manifest(
            name=work.spec.name, version=digest[:12], digest=digest, engine=engine_of(work.recipe),
            precision=work.recipe.precision, file=file, files=entries, source=source,
            reference=" + ".join((source.base, *(adapter.reference for adapter in source.adapters))),
            created=time.time(), parameters=parameters, license=license, target=work.recipe.target, never_run=never_run,
            task=task, training=training,
            conversion=Conversion(
                recipe=work.recipe.name, settings=settings_of(work.recipe, work.spec), tools=tools_of(work.recipe),
                stages=tuple(stages), base_bytes=4 * parameters),
        )
        work.store.publish(manifest, activate=False)
    return manifest.version


def entry_file(made: Path, paths: Sequence[str], task: Task = "generate") -> str:
    """What the engine opens. Raises ConversionFailed where the files make up no model that edged would take from
    elsewhere."""
    for path in paths:
        if (why := kinds.why_not(path)) is not None:
            raise ConversionFailed(f"the conversion left {path}, which no model may hold: {why}")
        if onnx_paths.is_graph(path):
            with (made / path).open("rb") as graph:
                onnx_paths.check(path, graph, paths)
    found = [path for path in paths if (
        path == "genai_config.json" or path.endswith(".gguf") if task == "generate" else path == GRAPH)]
    if len(found) != 1:
        raise ConversionFailed(f"the conversion left no model that an engine opens: {', '.join(paths) or 'nothing'}")
    return found[0]


def _listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _received(work: Work, path: str, real: Path, receiver: Receiver, report: Report) -> FileEntry:
    """The key is that of this job: a copy that a kill broke off is written over by the next attempt."""
    def fill(part: Part) -> None:
        with real.open("rb") as stream:
            if clone.share_blocks(stream.fileno(), part.fd):
                part.rehash()
                report.add(part.size)
                return
            while piece := stream.read(PIECE_BYTES):
                part.write(piece)
                report.add(len(piece))

    report.stage("copying", path)
    blob = receiver.receive(key_of("converted", work.folder.name, path), fill)
    return FileEntry(path=path, size=blob.size, sha256=blob.sha256)
