"""Pulling: from a reference to an installed version.

One pull of one source runs at a time on one store, in whatever processes: the others wait and then find everything
here. As a program, `python -m edged.store.pull REFERENCE`, it is what the daemon runs as a job: it prints `JobLine`s
as JSON, ends with 0 or 1, and may be killed at any instant.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec

from edged.errors import BadReference, Conflict, CorruptFile, EdgedError, Internal, ModelNotFound, SourceUnavailable
from edged.settings import load_settings
from edged.store import built_for, lineage, locks, refs, space
from edged.store.adapters import is_base_of, left_behind
from edged.store.blobs import Receiver, key_of
from edged.store.catalog import load_catalog
from edged.store.entries import (
    Catalog,
    HubSource,
    JobFailed,
    JobLine,
    JobProgress,
    LocalSource,
    Manifest,
    ModelEntry,
    PackagePart,
    PackageSource,
    Source,
    Variant,
)
from edged.store.lineage import ConvertedSource
from edged.store.manifests import digest_of
from edged.store.preferred import preferred
from edged.store.report import Report
from edged.store.sources import Fetched, Wanted, local, package
from edged.store.sources import hub as hub_source
from edged.store.sources.transfer import HubSettings
from edged.store.store import Store
from edged.store.task_of import task_of

__all__ = ["HubSettings", "main", "pull"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference means: the name to install under, where from, and what is known before. version: only this one
    will do, and it is not made the active one."""

    name: str
    source: Source
    wanted: Wanted
    entry: ModelEntry | None = None
    version: str | None = None


def pull(
    store: Store,
    catalog: Catalog,
    reference: str,
    *,
    hub: HubSettings,
    progress: Callable[[JobProgress], None],
    variant: Variant | None = None,
) -> Manifest:
    """Install what `reference` means and make it its name's active version; what is here already is not fetched again,
    what is damaged is. variant: of the catalog's entry; its first by default.

    Raises BadReference, ModelNotFound, RefusedFile, SourceUnavailable, InsufficientStorage, Conflict. After all but
    SourceUnavailable, which a later pull may mend, nothing of the pull is left on the disk.
    """
    report = Report(progress)
    target = target_of(store, catalog, reference, variant)
    key = key_of("pull", msgspec.json.encode(target.source).decode(), target.wanted.quant or "")
    lock = store.layout.pull_lock(key)
    try:
        with locks.lock(lock, waiting=lambda: report.stage("waiting")), store.receiver() as receiver:
            report.stage("resolving")
            fetched = _fetched(store, target, hub, receiver, report)
            report.stage("publishing")
            manifest = _manifest(store, target, fetched, reference, report)
            store.publish(manifest, activate=target.version is None)
    except SourceUnavailable:
        raise
    except EdgedError:
        _collect(store)
        raise
    except OSError as error:
        if space.is_full(error):
            _collect(store)
            raise space.full() from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise Conflict(
                f"the store cannot be written ({os.strerror(error.errno)}); pull as the user that owns it"
            ) from error
        raise
    report.stage("done")
    return manifest


def _collect(store: Store) -> None:
    """What this pull brought and nobody else needs. Its own error is the one to tell, not one of this."""
    with contextlib.suppress(OSError):
        store.collect()


def target_of(store: Store, catalog: Catalog, reference: str, variant: Variant | None = None) -> Target:
    """The catalog first, then what is installed, then the forms of `edged.store.refs`. Raises BadReference,
    ModelNotFound."""
    named = reference
    while named in catalog.aliases:
        named = catalog.aliases[named]
    if (entry := catalog.models.get(named)) is not None and (entry.variants or variant is not None):
        chosen = variant if variant is not None else entry.variants[0]
        return Target(entry.name, chosen.source, _wanted(chosen), entry)
    match refs.parse(named):
        case refs.HubReference() as hub:
            if hub.revision is not None and hub.revision in store.manifests.versions(hub.name):
                return _installed(store, catalog, refs.NameReference(hub.name, hub.revision))
            source = HubSource(repo=hub.repo, files=("*",), revision=hub.revision or "main")
            return Target(hub.name, source, Wanted(quant=hub.quant), catalog.models.get(hub.name))
        case refs.LocalReference() as here:
            path = Path(here.path).expanduser().absolute()
            return Target(refs.LocalReference(str(path.resolve())).name, LocalSource(path=str(path)), Wanted())
        case refs.PackageReference() as wheel:
            parts = (PackagePart(dist=wheel.dist, version=wheel.version, path=wheel.path),)
            return Target(wheel.name, PackageSource(parts=parts), Wanted())
        case refs.NameReference() as name:
            return _installed(store, catalog, name)


def _wanted(variant: Variant) -> Wanted:
    return Wanted(engine=variant.engine, precision=variant.precision, size=variant.size, sha256=variant.sha256)


def _installed(store: Store, catalog: Catalog, reference: refs.NameReference) -> Target:
    """A name that is no catalog model with a source: fetched again from where it came, which mends it."""
    try:
        manifest = store.manifest(reference.name, reference.version)
    except (ModelNotFound, CorruptFile) as error:
        raise ModelNotFound(
            f"{str(reference)!r} is no model of the catalog and not installed. `edged models` lists what can be "
            "pulled; a hub model is org/repo:Q4_K_M, a folder of this machine ./folder"
        ) from error
    wanted = Wanted(engine=manifest.engine, precision=manifest.precision)
    return Target(manifest.name, manifest.source, wanted, catalog.models.get(reference.name), reference.version)


def _fetched(store: Store, target: Target, hub: HubSettings, receiver: Receiver, report: Report) -> Fetched:
    match target.source:
        case HubSource() as source:
            with hub_source.open_client(hub) as client:
                plan = hub_source.plan(source, target.wanted, client, hub, report)
                return _here_already(store, plan.source, receiver, report) or hub_source.fetch(
                    plan, client, hub, receiver, report)
        case PackageSource() as source:
            here = _here_already(store, source, receiver, report)
            return here or package.fetch(source, target.wanted, receiver, report)
        case LocalSource() as source:
            return local.fetch(source, target.wanted, receiver, report)
        case ConvertedSource(base=base):
            raise Conflict(f"{target.name}@{target.version} was made on this machine from {base}; to make it again, "
                           "`edged convert` it")


def _here_already(store: Store, pinned: Source, receiver: Receiver, report: Report) -> Fetched | None:
    """What an installed version from the same pinned source says, if all of it is still here."""
    for name, version in store.manifests.everything():
        try:
            manifest = store.manifest(name, version)
        except EdgedError:
            continue
        if manifest.source == pinned and all(receiver.have(entry.sha256, entry.size) for entry in manifest.files):
            report.total(manifest.size)
            report.at(manifest.size)
            return Fetched(pinned, manifest.engine, manifest.precision, manifest.file, manifest.base_files)
    return None


def _manifest(store: Store, target: Target, fetched: Fetched, reference: str, report: Report) -> Manifest:
    """A version that is here keeps what was found out about it: its quality and its conversion. Where the active or the
    wanted version is these files with adapters, it keeps those."""
    digest = digest_of(fetched.files)
    version = digest[:12]
    with contextlib.suppress(ModelNotFound, CorruptFile):
        here = store.manifest(target.name, target.version)
        if is_base_of(digest, here):
            return here
        if target.version is None and (note := left_behind(here)) is not None:
            report.note(note)
    if target.version is not None and target.version != version:
        raise SourceUnavailable(
            f"the source of {target.name}@{target.version} gives other files by now; pull {target.name} for those"
        )
    try:
        return store.manifest(target.name, version)
    except (ModelNotFound, CorruptFile):
        return Manifest(
            name=target.name, version=version, digest=digest, engine=fetched.engine, precision=fetched.precision,
            file=fetched.file, files=fetched.files, source=fetched.source, reference=reference, created=time.time(),
            parameters=target.entry.parameters if target.entry is not None else None,
            license=target.entry.license if target.entry is not None else None, target=_built_for(store, fetched),
            task=task_of(fetched.engine, fetched.file, partial(_blob_of, store, fetched)), training=fetched.training,
        )


def _blob_of(store: Store, fetched: Fetched, path: str) -> Path | None:
    return next((store.layout.blob(entry.sha256) for entry in fetched.files if entry.path == path), None)


def _built_for(store: Store, fetched: Fetched) -> lineage.Target:
    """A GGUF is for any device that llama.cpp has a back end for."""
    if fetched.engine not in ("ort", "genai") or fetched.file.endswith(".onnx"):
        return "cpu"
    entry = next(entry for entry in fetched.files if entry.path == fetched.file)
    return built_for.target_of(store.layout.blob(entry.sha256).read_bytes())


def _variant(catalog: Catalog, name: str, index: int | None) -> Variant | None:
    if index is None:
        return None
    entry = catalog.models.get(name)
    if entry is None or not 0 <= index < len(entry.variants):
        raise BadReference(f"the catalog has no variant {index} of {name}; `edged models` lists them")
    return entry.variants[index]


def _failed(error: EdgedError) -> int:
    _print(JobLine(error=JobFailed(
        status=error.status, type=error.type, message=error.message, code=error.code, retry=error.retry,
    )))
    return 1


def _print(line: JobLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _told(moment: JobProgress) -> None:
    _print(JobLine(progress=moment))


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m edged.store.pull", description="Pull one model; JSON lines.")
    parser.add_argument("reference")
    parser.add_argument("--variant", type=int, default=None, help="which of the catalog's variants, from 0")
    parser.add_argument("--json-progress", action="store_true", help="what it always prints; kept for callers")
    arguments = parser.parse_args()
    # A cancelled pull runs its endings (pip is killed, scratch folders go) before it exits.
    signal.signal(signal.SIGTERM, _stop)
    try:
        settings, _ = load_settings()
        catalog = load_catalog(settings.models_file).current
        token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
        manifest = pull(
            Store(settings.home), catalog, arguments.reference,
            hub=HubSettings(endpoint=settings.hf_endpoint, token=token), progress=_told,
            variant=_variant(catalog, arguments.reference, arguments.variant)
            or preferred(catalog, arguments.reference, settings.memory_bytes, _told),
        )
        _print(JobLine(manifest=manifest))
    except BrokenPipeError:
        # Nobody reads any more: the daemon is gone. What came is kept for the next pull.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EdgedError as error:
        return _failed(error)
    except OSError as error:
        return _failed(Internal(f"the store's files failed: {error.strerror}; `edged doctor` looks at the disk"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
