"""What a worker or a trial is told to load: the manifest's facts, served as the catalog says, where it was placed."""

from __future__ import annotations

from edged.daemon.kv_files import kv_cache_spec
from edged.hardware.place import Place
from edged.hardware.providers import CPU
from edged.settings import Settings
from edged.store.entries import Manifest, ModelEntry
from edged.types import AdapterSpec, DraftSpec, KvCacheSpec, LoadSpec, Task, Tuning

#: Measured for a certain `threads`, so that another one, said by an operator, takes its place too.
BATCH_THREADS = "batch_threads"


def task_of(manifest: Manifest, entry: ModelEntry) -> Task:
    """What the operator says, else what its files say."""
    return entry.task or manifest.task


def load_spec(
    manifest: Manifest, entry: ModelEntry, place: Place, *, folder: str, memory_bytes: int, serving: Settings | None,
    draft: DraftSpec | None = None, tuning: Tuning | None = None,
) -> LoadSpec:
    """folder: of the store, leased while the process lives. memory_bytes: what it may take at most. serving: None for a
    trial, which logs no prompts and keeps none. tuning: as it was measured there; what the catalog says goes before
    it."""
    tuned = tuning or Tuning()
    options = {key: value for key, value in tuned.options.items() if key != BATCH_THREADS or entry.threads is None}
    return LoadSpec(
        name=manifest.name, version=manifest.version, digest=manifest.digest, engine=place.engine, path=folder,
        file=manifest.file, task=task_of(manifest, entry), context=entry.context, rows=entry.rows,
        threads=entry.threads or tuned.threads or place.threads,
        provider=place.provider, memory_bytes=memory_bytes, chat_template=entry.chat_template,
        sampling=entry.sampling, options=options | entry.options, dimensions=entry.dimensions,
        adapters=_adapters(manifest, folder), log_prompts=serving is not None and serving.log_prompts,
        kv_cache=KvCacheSpec(ram_bytes=0) if serving is None else kv_cache_spec(serving),
        warm_prompts=() if serving is None else entry.warm_prompts, speculation=entry.speculation,
        draft=draft,
        try_threads=serving is not None and tuning is None and place.provider == CPU and entry.threads is None
        and BATCH_THREADS not in entry.options,
    )


def _adapters(manifest: Manifest, folder: str) -> tuple[AdapterSpec, ...]:
    sha256 = {entry.path: entry.sha256 for entry in manifest.files}
    return tuple(AdapterSpec(name=adapter.name, digest=sha256[adapter.file], path=f"{folder}/{adapter.file}")
                 for adapter in manifest.adapters)
