"""What a worker is told to load: the manifest's facts, served as the catalog says."""

from __future__ import annotations

from edged.store.entries import Manifest, ModelEntry
from edged.types import LoadSpec


def load_spec(manifest: Manifest, entry: ModelEntry, *, folder: str, memory_bytes: int, log_prompts: bool) -> LoadSpec:
    """folder: of the store, leased while the worker lives. memory_bytes: what it may take at most."""
    return LoadSpec(
        name=manifest.name, version=manifest.version, digest=manifest.digest, engine=manifest.engine, path=folder,
        file=manifest.file, context=entry.context, rows=entry.rows, threads=entry.threads, memory_bytes=memory_bytes,
        chat_template=entry.chat_template, sampling=entry.sampling, options=entry.options, log_prompts=log_prompts,
    )
