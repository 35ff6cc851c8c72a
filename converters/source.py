"""The first stage: what is converted comes into the job's folder as a Hugging Face folder, whatever it was, and its
adapters beside it. Everything is checked and the needs are told before anything large is read or written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from converters import calibration, estimate, refuse
from converters.bring import (
    STAGE,
    Brought,
    Check,
    Choose,
    Linked,
    Listing,
    bring_folder,
    bring_repository,
    list_folder,
    list_repository,
)
from converters.child import Tell
from converters.dequantize import GgufFacts, dequantize, read_facts
from converters.encoder_export import module_folders, require_recipe, task_of
from converters.quiet import quietly
from converters.record import already_made, runs_here
from converters.tensors import read_headers
from converters.work import Work
from edged.errors import Conflict, InvalidRequest, ModelNotFound, RefusedFile
from edged.hardware.facts import Facts
from edged.hardware.probe import probe
from edged.store import refs, trained
from edged.store.blobs import hash_file
from edged.store.entries import FileEntry, JobProgress, Manifest
from edged.store.lineage import AdapterSource, ConvertedSource, Training
from edged.store.manifests import digest_of
from edged.store.paths import segment_of
from edged.store.sources.hub import open_client
from edged.types import Task

#: Modules of the extra `convert`, by the distribution that has each.
_PACKAGES = {
    "torch": "torch", "transformers": "transformers", "peft": "peft", "accelerate": "accelerate",
    "safetensors": "safetensors", "gguf": "gguf", "onnx": "onnx", "onnx_ir": "onnx-ir", "onnxscript": "onnxscript",
    "olive": "olive-ai",
}


class Sourced(Struct, frozen=True, kw_only=True):
    """What the later stages know of it. source: for the manifest. context: tokens that it was trained for, where its
    configuration says so. task: what it is for. origin: what the weights have been through, in words. linked: files
    that are used where they lie. made: the version that this conversion has made before, with the same tools; then
    there is nothing left to do but to activate it. training: how the weights came to be, where they or the last adapter
    say."""

    source: ConvertedSource
    parameters: int
    context: int | None = None
    task: Task = "generate"
    origin: str | None = None
    license: str | None = None
    linked: tuple[Linked, ...] = ()
    made: str | None = None
    training: Training | None = None


def model_folder(work: Work) -> Path:
    return work.out(STAGE) / "model"


def adapter_folder(work: Work, number: int) -> Path:
    return work.out(STAGE) / f"adapter-{number}"


def run(work: Work, tell: Tell) -> Sourced:
    """Raises RefusedFile, BadReference, InvalidRequest, ConfigError, ModelNotFound, SourceUnavailable,
    InsufficientStorage, InsufficientMemory, CorruptFile, ConversionFailed; Conflict where the packages are not
    installed."""
    require_packages()
    _check_asked(work)
    with contextlib.ExitStack() as held:
        original = _original(work, held)
        adapters = [_listed(work, reference, refuse.adapter_files, held) for reference in work.spec.adapters]
        size = original.size(len(adapters))
        facts = probe()
        _estimate(work, size, facts, tell)
        work.out(STAGE).mkdir()
        merged: list[AdapterSource] = []
        linked: list[Linked] = []
        training: Training | None = None
        for number, (reference, adapter) in enumerate(zip(work.spec.adapters, adapters, strict=True)):
            brought = adapter.bring(adapter_folder(work, number), refuse.check_adapter_json, tell)
            merged.append(AdapterSource(reference=reference, sha256=brought.sha256_of(refuse.ADAPTER_WEIGHTS)))
            linked.extend(brought.linked)
            training = trained.read(adapter_folder(work, number)) or training
        sourced = original.bring(work, tuple(merged), tuple(linked), tell)
        if training is not None:
            sourced = msgspec.structs.replace(sourced, training=training)
        if size.guessed and sourced.made is None:
            known = msgspec.structs.replace(size, parameters=sourced.parameters, brought_bytes=0, guessed=False)
            _estimate(work, known, facts, tell)
        return sourced


def _estimate(work: Work, size: estimate.Size, facts: Facts, tell: Tell) -> None:
    """Told, and refused where it cannot fit."""
    needs = estimate.estimate(size, work.recipe, gated=runs_here(work.recipe, facts), cores=facts.cpu.threads)
    tell(JobProgress(stage=STAGE, note=estimate.in_sentence(size, needs)))
    estimate.require(needs, free_disk_bytes=shutil.disk_usage(work.folder).free,
                     free_memory_bytes=facts.memory.available)


def require_packages() -> None:
    """Raises Conflict with the command that installs them."""
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Conflict(f"converting needs packages that are not installed here ({', '.join(missing)}): "
                       "pip install 'edged[convert]'")


def _check_asked(work: Work) -> None:
    """What a later stage would refuse, after minutes or hours. Raises BadReference, InvalidRequest, ConfigError."""
    spec, recipe = work.spec, work.recipe
    segment_of(spec.name)
    if recipe.refused is not None:
        raise InvalidRequest(f"recipe {recipe.name} is not for here: {recipe.refused}")
    if spec.calibration is not None:
        calibration.read(Path(spec.calibration), "gate")
    if spec.tasks is not None:
        from converters import tasks

        tasks.read(Path(spec.tasks))


class _Original(Protocol):
    """What is to be converted, looked at but not brought yet."""

    def size(self, adapters: int) -> estimate.Size: ...

    def bring(
        self, work: Work, adapters: tuple[AdapterSource, ...], linked: tuple[Linked, ...], tell: Tell,
    ) -> Sourced: ...


class _Bring(Protocol):
    def __call__(self, out: Path, check: Check, tell: Tell) -> Brought: ...


@dataclass(frozen=True, slots=True)
class _Listed:
    """A folder or a repository, and how its files come here."""

    listing: Listing
    bring: _Bring


@dataclass(frozen=True, slots=True)
class _HuggingFace:
    """base: the reference with its revision pinned."""

    listed: _Listed
    base: str

    def size(self, adapters: int) -> estimate.Size:
        listing = self.listed.listing
        stored_bytes = sum(size for name, size in listing.sizes.items() if name.endswith(".safetensors"))
        if listing.folder is None:
            return estimate.Size(parameters=estimate.least_parameters(listing.sizes), stored_bytes=stored_bytes,
                                 adapters=adapters, brought_bytes=stored_bytes, guessed=True)
        return estimate.Size(parameters=count_weights(listing.folder), stored_bytes=stored_bytes, adapters=adapters)

    def bring(
        self, work: Work, adapters: tuple[AdapterSource, ...], linked: tuple[Linked, ...], tell: Tell,
    ) -> Sourced:
        brought = self.listed.bring(model_folder(work), refuse.check_config, tell)
        task = task_of(model_folder(work))
        require_recipe(work.recipe, task, len(adapters))
        module_folders(model_folder(work))
        parameters = count_weights(model_folder(work))
        source = ConvertedSource(base=self.base, base_digest=digest_of(brought.files), adapters=adapters)
        return Sourced(
            source=source, linked=(*linked, *brought.linked), made=already_made(work, source),
            context=trained_context(model_folder(work)), parameters=parameters, task=task,
            training=trained.read(model_folder(work)))


@dataclass(frozen=True, slots=True)
class _Gguf:
    """digest: of its files, where the store knows it; else it is the file's own."""

    file: Path
    facts: GgufFacts
    base: str
    digest: str | None = None
    license: str | None = None
    training: Training | None = None

    def size(self, adapters: int) -> estimate.Size:
        return estimate.Size(parameters=self.facts.parameters, stored_bytes=self.file.stat().st_size, dequantized=True,
                             adapters=adapters)

    def bring(
        self, work: Work, adapters: tuple[AdapterSource, ...], linked: tuple[Linked, ...], tell: Tell,
    ) -> Sourced:
        digest = self.digest
        if digest is None:
            entry = FileEntry(path=self.file.name, size=self.file.stat().st_size, sha256=hash_file(self.file))
            digest = digest_of([entry])
        source = ConvertedSource(base=self.base, base_digest=digest, adapters=adapters)
        made = already_made(work, source)
        if made is None:
            tell(JobProgress(stage=STAGE, file=f"dequantizing {self.file.name}"))
            with quietly(lambda line: None):
                note = dequantize(self.file, self.facts, model_folder(work), work.scratch(STAGE))
            if note is not None:
                tell(JobProgress(stage=STAGE, note=note))
        return Sourced(source=source, parameters=self.facts.parameters, origin=self.facts.origin, made=made,
                       context=trained_context(model_folder(work)) if made is None else None,
                       license=self.license or self.facts.license, linked=linked, training=self.training)


def _original(work: Work, held: contextlib.ExitStack) -> _Original:
    said = work.spec.source
    if (manifest := _installed(work, said)) is not None:
        return _of_installed(work, manifest, held)
    reference = refs.parse(said)
    if isinstance(reference, refs.NameReference):
        raise ModelNotFound(f"{said!r} is not installed; `edged list` shows what is. A Hugging Face model is ./folder "
                            "or org/repo")
    if isinstance(reference, refs.PackageReference):
        raise RefusedFile(f"{said} is a package; `edged pull` it first, then convert it by its name")
    if isinstance(reference, refs.LocalReference) and Path(said).suffix.lower() == ".gguf":
        file = Path(said)
        if not file.is_file():
            raise RefusedFile(f"there is no file {said}")
        return _Gguf(file.resolve(), read_facts(file), base=said)
    listed = _listed(work, said, refuse.model_files, held)
    return _HuggingFace(listed, base=listed.listing.title)


def _installed(work: Work, said: str) -> Manifest | None:
    """By the name that it has in the store, which may look like a repository's."""
    name, _, version = said.partition("@")
    if name in work.store.names() or (version and work.store.manifests.versions(name)):
        try:
            return work.store.manifest(name, version or None)
        except ModelNotFound:
            # A revision of the repository of that name.
            if "/" in name:
                return None
            raise
    return None


def _of_installed(work: Work, manifest: Manifest, held: contextlib.ExitStack) -> _Original:
    named = f"{manifest.name}@{manifest.version}"
    if manifest.engine != "llama":
        raise RefusedFile(
            f"{named} is an ONNX model, which nothing can be made of; convert its Hugging Face original (./folder or "
            "hf.co/org/repo), or an installed GGUF")
    held.enter_context(work.store.lease(manifest))
    file = work.store.folder(manifest) / manifest.file
    return _Gguf(file, read_facts(file), base=named, digest=manifest.digest, license=manifest.license,
                 training=manifest.training)


def _listed(work: Work, said: str, choose: Choose, held: contextlib.ExitStack) -> _Listed:
    match refs.parse(said):
        case refs.LocalReference(path=path):
            listing = list_folder(Path(path), choose)
            return _Listed(listing, partial(bring_folder, listing))
        case refs.HubReference() as hub:
            if hub.quant is not None:
                raise RefusedFile(f"{said}: a conversion starts from the weights in full; leave `:{hub.quant}` out")
            client = held.enter_context(open_client(work.hub))
            listing = list_repository(hub.repo, hub.revision, choose, client, work.hub)
            return _Listed(listing, partial(
                bring_repository, listing, client=client, settings=work.hub, layout=work.store.layout))
        case _:
            raise RefusedFile(f"{said} is no folder and no repository; give ./folder or org/repo")


def count_weights(folder: Path) -> int:
    """From the headers of the files. Raises CorruptFile naming one that is damaged."""
    return sum(tensor.count for header in read_headers(folder).values() for tensor in header.values())


def trained_context(folder: Path) -> int | None:
    said = json.loads((folder / refuse.CONFIG).read_bytes())
    for table in (said, said.get("text_config") or {}):
        if isinstance(found := table.get("max_position_embeddings"), int) and found > 0:
            return found
    return None
