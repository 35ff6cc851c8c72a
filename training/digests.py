"""Digests of large files, each taken once: what is kept of one holds as long as its size, times and inode are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from edged.store import files
from edged.store.blobs import hash_file

FILE = "digests.json"


class _Kept(Struct, frozen=True, array_like=True):
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


def digests(paths: Sequence[Path], folder: Path) -> list[str]:
    """sha256 of each file, 64 hex digits. folder: keeps them, and is made where it is not there; what another process
    writes there at the same time may be lost, and is then taken again. Raises OSError."""
    folder.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
    before = _read(folder / FILE)
    known = {path: kept for path, kept in before.items() if Path(path).exists()}
    found = []
    for path in (each.resolve() for each in paths):
        kept = known.get(str(path))
        if kept is None or kept != _seen(path, kept.sha256):
            kept = known[str(path)] = _taken(path)
        found.append(kept.sha256)
    if known != before:
        files.publish_bytes(folder / FILE, msgspec.json.encode(known), folder)
    return found


def _taken(path: Path) -> _Kept:
    """As the file was when reading began, so that one which was written meanwhile is read again the next time."""
    seen = _seen(path, "")
    return msgspec.structs.replace(seen, sha256=hash_file(path))


def _seen(path: Path, sha256: str) -> _Kept:
    stat = path.stat()
    return _Kept(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, sha256)


def _read(file: Path) -> dict[str, _Kept]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, _Kept])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}
