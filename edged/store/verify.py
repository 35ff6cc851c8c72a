"""Hashing the installed files again. A damaged blob is moved aside, so that the next pull fetches it anew."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence

from edged.store import files, locks
from edged.store.blobs import hash_file
from edged.store.entries import Damage, FileEntry, Manifest
from edged.store.paths import Layout


def verify(
    layout: Layout,
    manifests: Sequence[Manifest],
    locked: Callable[[], locks.Lock],
    progress: Callable[[str, int, int], None] | None,
) -> list[Damage]:
    """progress: path, bytes hashed so far, bytes in all. Every blob is hashed once, however many manifests name it."""
    blobs = {entry.sha256: entry for manifest in manifests for entry in manifest.files}
    total_bytes = sum(entry.size for entry in blobs.values())
    done_bytes = 0
    wrong: dict[str, str] = {}
    for entry in blobs.values():
        def piece(count: int, path: str = entry.path) -> None:
            nonlocal done_bytes
            done_bytes += count
            if progress is not None:
                progress(path, done_bytes, total_bytes)

        if (what := _what_is_wrong(layout, entry, piece)) is not None:
            wrong[entry.sha256] = what
            # In a read-only store there is nothing to move: the report is all.
            with contextlib.suppress(OSError), locked():
                _quarantine(layout, entry, manifests)
    return [
        Damage(name=manifest.name, version=manifest.version, path=entry.path, what=wrong[entry.sha256])
        for manifest in manifests for entry in manifest.files if entry.sha256 in wrong
    ]


def _what_is_wrong(layout: Layout, entry: FileEntry, piece: Callable[[int], None]) -> str | None:
    path = layout.blob(entry.sha256)
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size} bytes instead of {entry.size}"
        if hash_file(path, piece) != entry.sha256:
            return "has other bytes than its manifest says"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _quarantine(layout: Layout, entry: FileEntry, manifests: Sequence[Manifest]) -> None:
    """Out of blobs/ into tmp/, where `collect` finds it when it is old; and out of the model folders that link it."""
    blob = layout.blob(entry.sha256)
    if blob.exists():
        files.rename(blob, layout.tmp / f"damaged-{entry.sha256}-{secrets.token_hex(4)}")
        files.sync_folder(layout.blobs)
    for manifest in manifests:
        for each in manifest.files:
            if each.sha256 == entry.sha256:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    files.remove(layout.model_file(manifest.digest, each.path))
