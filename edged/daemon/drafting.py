"""The draft model that a catalog entry names: another installed model, which the first one's worker loads beside it."""

from __future__ import annotations

from edged.daemon.footprint import model_bytes
from edged.errors import EdgedError, LoadFailed, ModelNotFound
from edged.store import Lease, Store
from edged.store.catalog import CatalogFile
from edged.store.entries import Manifest, ModelEntry
from edged.types import DraftSpec


def draft_manifest(store: Store, catalog: CatalogFile, entry: ModelEntry) -> Manifest | None:
    """None where no draft is named, or speculation is off. Raises LoadFailed, CorruptFile, BadReference."""
    if entry.draft is None or not entry.speculation:
        return None
    name, _, version = catalog.resolve_alias(entry.draft).partition("@")
    try:
        manifest = store.manifest(name, version or None)
    except ModelNotFound as error:
        raise LoadFailed(
            f"the draft model of {entry.name} is not installed; `edged pull {entry.draft}`, or take `draft` out of "
            "models.toml") from error
    if manifest.task != "generate":
        raise LoadFailed(f"{entry.draft} writes no text, so it cannot draft for {entry.name}; name another model as "
                         "`draft` in models.toml")
    return manifest


def draft_bytes(store: Store, catalog: CatalogFile, entry: ModelEntry) -> int:
    """Memory that its weights and its KV take beside the model, as far as the size of its file tells; 0 where it cannot
    be found: its load says so."""
    try:
        manifest = draft_manifest(store, catalog, entry)
    except EdgedError:
        return 0
    return 0 if manifest is None else model_bytes(manifest)


def leased_draft(store: Store, catalog: CatalogFile, entry: ModelEntry) -> tuple[Lease, DraftSpec] | None:
    """Its folder, complete, and kept until the lease is released. Raises LoadFailed, ModelNotFound, CorruptFile."""
    manifest = draft_manifest(store, catalog, entry)
    if manifest is None:
        return None
    lease = store.lease(manifest)
    try:
        folder = str(store.folder(manifest))
    except BaseException:
        lease.release()
        raise
    return lease, DraftSpec(name=manifest.name, engine=manifest.engine, path=folder, file=manifest.file)
