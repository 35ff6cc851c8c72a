"""`python -m converters.adapter MODEL REFERENCE [--as NAME]`: a LoRA beside an installed model, as a version of it that
has one adapter more, which becomes the active one. The daemon runs it as a job.

It prints `JobLine`s as JSON, the last one with the manifest or the error, and ends with 0 or 1. It may be killed at any
instant: the version is there whole or not at all, and the same command begins anew.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from converters import bring, refuse
from converters.bring import Brought
from converters.child import failed_by
from converters.quiet import quietly
from edged.errors import BadReference, Conflict, EdgedError, InvalidRequest, RefusedFile
from edged.settings import load_settings
from edged.store import Store, adapters, clone, refs, space, trained
from edged.store.blobs import PIECE_BYTES, Part, Receiver, key_of
from edged.store.catalog import CatalogFile, load_catalog
from edged.store.entries import Adapter, FileEntry, JobLine, JobProgress, Manifest
from edged.store.select import ADAPTERS_GRAPH
from edged.store.sources.hub import open_client
from edged.store.sources.transfer import HubSettings

Tell = Callable[[JobProgress], None]

#: What reading and writing them needs of the extra `convert`.
_PACKAGES = {"gguf": "gguf", "safetensors": "safetensors", "onnx": "onnx"}


@dataclass(frozen=True, slots=True)
class _Source:
    """An adapter that was brought: what peft saved, or one GGUF. folder: holds that, what it says of its training, and
    nothing else. reference: with the
    revision of a repository pinned."""

    folder: Path
    gguf: str | None
    sha256: str
    reference: str


def install(
    store: Store, catalog: CatalogFile, model: str, reference: str, *, name: str | None, hub: HubSettings, tell: Tell,
) -> Manifest:
    """model: installed, `name` or `name@version`, or an alias. name: what requests will call the adapter.

    Raises ModelNotFound, BadReference, RefusedFile, InvalidRequest where the model's engine serves no adapters,
    SourceUnavailable, CorruptFile, InsufficientStorage, Conflict."""
    _require_packages()
    called = adapters.name_for(reference, name)
    plain, version = _named(store, catalog.resolve_alias(model))
    with adapters.changing(store, plain), _scratch(store) as scratch:
        base = store.manifest(plain, version)
        if base.task != "generate":
            raise InvalidRequest(f"{plain} is a model to {base.task}; adapters are for models that generate text")
        tell(JobProgress(stage="resolving", file=reference))
        source = _brought(reference, scratch / "source", store, hub, tell)
        tell(JobProgress(stage="writing", file=called))
        with store.lease(base), quietly():
            made = _made(base, store.folder(base), source, called, scratch)
        tell(JobProgress(stage="publishing"))
        with store.receiver() as receiver:
            entries = [_received(base, path, real, receiver) for path, real in made.items()]
            adapter = Adapter(name=called, file=next(iter(made)), reference=source.reference, sha256=source.sha256,
                              graph=ADAPTERS_GRAPH if ADAPTERS_GRAPH in made else None,
                              training=trained.read(source.folder))
            manifest = adapters.as_known(store, adapters.with_one(base, adapter, entries))
            store.publish(manifest)
    tell(JobProgress(stage="done", fraction=1.0))
    return manifest


def _require_packages() -> None:
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Conflict(f"adapters need packages that are not installed here ({', '.join(missing)}): "
                       "pip install 'edged[convert]'")


def _named(store: Store, said: str) -> tuple[str, str | None]:
    name, at, version = said.rpartition("@")
    return (name, version) if at and said not in store.names() else (said, None)


@contextlib.contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    """What a killed one leaves there, the garbage collector finds."""
    with tempfile.TemporaryDirectory(prefix="adapter-", dir=store.layout.tmp) as folder:
        yield Path(folder)


def _brought(reference: str, out: Path, store: Store, hub: HubSettings, tell: Tell) -> _Source:
    """Pickles, code and links out of the folder are refused before anything is read."""
    match refs.parse(reference):
        case refs.LocalReference() as here:
            path = Path(here.path).expanduser().absolute()
            single = path.is_file()
            if single and path.suffix != ".gguf":
                raise RefusedFile(f"{path.name} is no adapter: name the folder that peft saved, or a .gguf")
            listing = bring.list_folder(path.parent if single else path,
                                        (lambda names: [path.name]) if single else _files)
            brought = bring.bring_folder(listing, out, refuse.check_adapter_json, tell)
        case refs.HubReference(repo=repo, quant=None, revision=revision):
            with open_client(hub) as client:
                listing = bring.list_repository(repo, revision, _files, client, hub)
                brought = bring.bring_repository(listing, out, refuse.check_adapter_json, tell, client=client,
                                                 settings=hub, layout=store.layout)
        case _:
            raise BadReference(f"{reference} is no adapter: right are ./folder, ./file.gguf and org/repo")
    for linked in brought.linked:
        bring.changed(linked)
    pinned = reference if brought.revision is None else f"{reference.partition('@')[0]}@{brought.revision}"
    return _source(out, brought, pinned)


def _files(names: Collection[str]) -> list[str]:
    """Of a folder or repository. Raises RefusedFile."""
    ggufs = [name for name in sorted(names) if name.endswith(".gguf")]
    if refuse.ADAPTER_CONFIG not in names and len(ggufs) == 1:
        return ggufs
    if refuse.ADAPTER_CONFIG not in names and ggufs:
        raise RefusedFile(f"there are {len(ggufs)} GGUF files; name the adapter's own, as in ./folder/{ggufs[0]}")
    return [name for name in refuse.adapter_files(names) if name != refuse.TEMPLATE]


def _source(folder: Path, brought: Brought, reference: str) -> _Source:
    gguf = next((entry.path for entry in brought.files if entry.path.endswith(".gguf")), None)
    return _Source(folder, gguf, brought.sha256_of(gguf or refuse.ADAPTER_WEIGHTS), reference)


def _made(base: Manifest, folder: Path, source: _Source, name: str, scratch: Path) -> dict[str, Path]:
    """By path in the version, the adapter's file first. Raises InvalidRequest where the engine serves none."""
    from converters import gguf_lora, graph_lora, lora

    if base.engine == "llama":
        files = [folder / entry.path for entry in base.base_files if entry.path.endswith(".gguf")]
        known = gguf_lora.read_base(files)
        out = scratch / f"{name}.gguf" if source.gguf is None else source.folder / source.gguf
        if source.gguf is None:
            gguf_lora.write(lora.read(source.folder), known, out, name)
        gguf_lora.check(out, known)
        return {adapters.file_for(name, ".gguf"): out}
    if source.gguf is not None:
        raise InvalidRequest(f"{base.name} is an ONNX model: give the adapter as peft saved it, not as a GGUF")
    if base.engine == "ort" and base.target == "cpu":
        out = scratch / f"{name}.onnx_adapter"
        graph_lora.write(folder, lora.read(source.folder), graph=scratch / ADAPTERS_GRAPH, out=out)
        return {adapters.file_for(name, ".onnx_adapter"): out, ADAPTERS_GRAPH: scratch / ADAPTERS_GRAPH}
    if base.engine == "fake":
        return {adapters.file_for(name, ".safetensors"): source.folder / refuse.ADAPTER_WEIGHTS}
    raise InvalidRequest(f"{base.name}@{base.version} is for {base.engine} on {base.target}, which serves no adapters; "
                         "merge it: `edged convert MODEL --adapter …`, or pull it for a version for cpu")


def _received(base: Manifest, path: str, real: Path, receiver: Receiver) -> FileEntry:
    space.require(receiver.home, real.stat().st_size)

    def fill(part: Part) -> None:
        with real.open("rb") as stream:
            if clone.share_blocks(stream.fileno(), part.fd):
                part.rehash()
                return
            while piece := stream.read(PIECE_BYTES):
                part.write(piece)

    blob = receiver.receive(key_of("adapter", base.digest, path), fill)
    return FileEntry(path=path, size=blob.size, sha256=blob.sha256)


class _Out:
    """The real standard output: libraries print to file descriptor 1 as they like."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)

    def line(self, line: JobLine) -> None:
        view = memoryview(msgspec.json.encode(line) + b"\n")
        while view:
            view = view[os.write(self._fd, view):]

    def tell(self, moment: JobProgress) -> None:
        self.line(JobLine(progress=moment))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m converters.adapter", description="Install one LoRA; JSON lines.")
    parser.add_argument("model")
    parser.add_argument("reference")
    parser.add_argument("--as", dest="name", default=None)
    said = parser.parse_args()
    # A cancelled one runs its endings before it exits.
    signal.signal(signal.SIGTERM, _stop)
    out = _Out()
    try:
        settings, _ = load_settings()
        token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
        manifest = install(
            Store(settings.home), load_catalog(settings.models_file), said.model, said.reference, name=said.name,
            hub=HubSettings(endpoint=settings.hf_endpoint, token=token), tell=out.tell)
        out.line(JobLine(manifest=manifest))
    except BrokenPipeError:
        return 1
    except EdgedError as error:
        out.line(JobLine(error=failed_by(error)))
        return 1
    except OSError as error:
        if space.is_full(error):
            out.line(JobLine(error=failed_by(space.full())))
        else:
            out.line(JobLine(error=failed_by(Conflict(
                f"the store cannot be written ({error.strerror}); pull as the user that owns it"))))
        return 1
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
