"""`models/<digest>/`: a model as the folder that engines want, of hard links to our own blobs.

A folder is derived from its manifest and made again where links are missing, so it needs no syncs and no order.
Nothing absolute is stored: a store that was moved, or is mounted read-only with its folders complete, still serves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from edged.errors import CorruptFile
from edged.store import clone, files
from edged.store.entries import FileEntry, Manifest
from edged.store.paths import Layout

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)


def complete(layout: Layout, manifest: Manifest) -> Path:
    """The folder, with every file of the manifest in it. The caller holds a lease on the model, or nobody collects.

    Raises CorruptFile when a blob is missing or has another size."""
    folder = layout.model(manifest.digest)
    for entry in manifest.files:
        if not _is_there(layout, manifest, entry):
            _put(layout, manifest, entry)
    return folder


def _is_there(layout: Layout, manifest: Manifest, entry: FileEntry) -> bool:
    """A link to the blob; or a whole copy, where there are no links or the store was copied without them."""
    try:
        mine = layout.model_file(manifest.digest, entry.path).lstat()
        blob = layout.blob(entry.sha256).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if blob.st_size != entry.size:
        return False
    return os.path.samestat(mine, blob) or (mine.st_nlink == 1 and mine.st_size == entry.size)


def _put(layout: Layout, manifest: Manifest, entry: FileEntry) -> None:
    blob, path = layout.blob(entry.sha256), layout.model_file(manifest.digest, entry.path)
    try:
        size = blob.stat().st_size
    except FileNotFoundError:
        size = None
    if size != entry.size:
        raise CorruptFile(
            f"{entry.path} of {manifest.name}@{manifest.version} is {'missing' if size is None else 'cut short'} in "
            f"the store; `edged pull {manifest.name}` mends it"
        )
    for parent in reversed(path.relative_to(layout.models).parents[:-1]):
        files.make_folder(layout.models / parent)
    while not _is_there(layout, manifest, entry):
        with contextlib.suppress(FileExistsError):
            _link(blob, path)
            return
        # What is in the way is no link to this blob (it was replaced after a mend), or another process just put it.
        if not _is_there(layout, manifest, entry):
            files.remove(path)


def _link(blob: Path, path: Path) -> None:
    try:
        files.link(blob, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        temporary = path.with_name(f".copy-{os.getpid()}-{secrets.token_hex(8)}")
        clone.copy(blob, temporary)
        files.rename(temporary, path)
