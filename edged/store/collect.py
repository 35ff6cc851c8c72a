"""Garbage collection: what no manifest names, no lease holds and no running pull needs.

Runs under the store's lock, so nothing is published or removed meanwhile. Leases and the locks of running pulls are
tried, never waited for: what is held stays.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from stat import S_ISREG

from edged.errors import EdgedError
from edged.store import files, locks
from edged.store.entries import Collected
from edged.store.job_folders import RESULT_FILE
from edged.store.manifests import Manifests
from edged.store.paths import Layout

#: By the file system's clock. A clock that jumps costs a download begun anew, never a model.
PARTS_OLDER_THAN_S = 7 * 24 * 3600.0

_BLOB_PREFIX = "sha256-"


def collect(layout: Layout, manifests: Manifests, parts_older_than_s: float) -> Collected:
    named_blobs: set[str] = set()
    named_models: set[str] = set()
    for name, version in manifests.everything():
        try:
            manifest = manifests.read(name, version)
        except EdgedError:
            # A manifest that cannot be read may name anything: then no blob is garbage until it is mended or removed.
            return _parts(layout, parts_older_than_s)
        named_models.add(manifest.digest)
        named_blobs.update(entry.sha256 for entry in manifest.files)
    removed_models, leased_inodes = _models(layout, named_models)
    removed_blobs, blob_bytes = _blobs(layout, named_blobs, leased_inodes)
    parts = _parts(layout, parts_older_than_s)
    job_bytes = _jobs(layout, parts_older_than_s) + _kv(layout, named_models)
    _lock_files(layout)
    return Collected(
        blobs=removed_blobs, models=removed_models, parts=parts.parts, bytes=blob_bytes + parts.bytes + job_bytes,
    )


def _models(layout: Layout, named: set[str]) -> tuple[int, set[int]]:
    """Folders removed, and the inodes in folders that nobody names but a lease holds."""
    removed, leased = 0, set[int]()
    for folder in sorted(layout.models.iterdir()):
        if folder.name in named:
            continue
        with contextlib.suppress(EdgedError):
            lock = locks.try_lock(layout.model_lock(folder.name))
            if lock is None:
                leased.update(status.st_ino for status in _below(folder))
                continue
            with lock:
                files.remove_tree(folder)
                removed += 1
    return removed, leased


def _blobs(layout: Layout, named: set[str], leased_inodes: set[int]) -> tuple[int, int]:
    removed, freed = 0, 0
    for path in sorted(layout.blobs.iterdir()):
        digest = path.name.removeprefix(_BLOB_PREFIX)
        status = path.lstat()
        if digest in named or status.st_ino in leased_inodes:
            continue
        with contextlib.suppress(EdgedError):
            lock = locks.try_lock(layout.blob_lock(digest))
            if lock is None:
                continue
            with lock:
                files.remove(path)
                removed, freed = removed + 1, freed + status.st_size
    return removed, freed


def _parts(layout: Layout, older_than_s: float) -> Collected:
    """Whatever lies in tmp/: parts of pulls and quarantined blobs. `write-` files are made under the store's lock,
    which we hold: their writers are dead."""
    removed, freed = 0, 0
    for path in sorted(layout.tmp.iterdir()):
        lock = locks.try_lock(layout.tmp_lock(path))
        if lock is None:
            continue
        with lock:
            found = _below(path)
            idle_s = time.time() - max((status.st_mtime for status in found), default=0.0)
            if not found or (not path.name.startswith("write-") and idle_s < older_than_s):
                continue
            if path.is_dir() and not path.is_symlink():
                files.remove_tree(path)
            else:
                files.remove(path)
            removed, freed = removed + 1, freed + sum(status.st_size for status in found if S_ISREG(status.st_mode))
    return Collected(parts=removed, bytes=freed)


def _jobs(layout: Layout, older_than_s: float) -> int:
    """Bytes of conversions that ended long ago: their logs, and what a failed one had kept for a next attempt."""
    freed = 0
    for folder in sorted(layout.jobs.iterdir()):
        lock = locks.try_lock(layout.job_lock(folder))
        if lock is None:
            continue
        with lock:
            found = _below(folder)
            idle_s = time.time() - max((status.st_mtime for status in found), default=0.0)
            if idle_s >= older_than_s and (folder / RESULT_FILE).exists():
                files.remove_tree(folder)
                freed += sum(status.st_size for status in found if S_ISREG(status.st_mode))
    return freed


def _kv(layout: Layout, named: set[str]) -> int:
    """Bytes of KV files of models that are gone. Of those that are here they go by themselves."""
    freed = 0
    for folder in sorted(layout.kv.iterdir()):
        if folder.name in named or not folder.is_dir() or folder.is_symlink():
            continue
        with contextlib.suppress(EdgedError):
            lock = locks.try_lock(layout.model_lock(folder.name))
            if lock is not None:
                with lock:
                    freed += sum(status.st_size for status in _below(folder) if S_ISREG(status.st_mode))
                    files.remove_tree(folder)
    return freed


def _below(path: Path) -> list[os.stat_result]:
    """Of the path and all below it; what another process takes away meanwhile is left out."""
    found = []
    for each in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())]:
        with contextlib.suppress(FileNotFoundError):
            found.append(each.lstat())
    return found


def _lock_files(layout: Layout) -> None:
    """Those that nobody holds. Who has one open and takes it after this finds that it is gone, and makes it anew."""
    for path in sorted(layout.locks.iterdir()):
        if path != layout.store_lock and (lock := locks.try_lock(path)) is not None:
            with lock:
                files.remove(path)
