"""Every operation on the store's files, so that one place fixes their order and a test can watch it.

`watch` is called with each operation just before it is made. In service it does nothing; the fault tests put a
function there that dies at the k-th operation, or one that records the trace and replays it to every state that a
crash allows (operations between two syncs may be lost or reordered).

The protocol of publication (PROMISES R1): `create` → `write`… → `sync` → `rename` → `sync_folder`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["folder", "create", "write", "truncate", "sync", "rename", "link", "remove", "sync_folder"]

FILE_MODE = 0o600
FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Operation:
    """`to`: target of rename and link. `data`: of write, at `offset`; truncate cuts to `offset`."""

    kind: Kind
    path: Path
    to: Path | None = None
    data: bytes | None = None
    offset: int = 0


def _unwatched(operation: Operation) -> None:
    pass


watch: Callable[[Operation], None] = _unwatched


def _sync(fd: int) -> None:
    """macOS's fsync leaves data in the drive's cache; F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        fcntl.fcntl(fd, full)
    else:
        os.fsync(fd)


class OutFile:
    """A file being written at its end. Owned by one thread; private to this user from its first instant."""

    def __init__(self, path: Path, *, keep: bool, new: bool = False) -> None:
        """keep: what an earlier process wrote stays and is appended to; else the file starts empty. new: raises
        FileExistsError where there is one."""
        self.path = path
        watch(Operation("create", path))
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_EXCL if new else 0)
        self._fd = os.open(path, flags if keep else flags | os.O_TRUNC, FILE_MODE)
        self.size = os.fstat(self._fd).st_size

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, data: bytes) -> None:
        watch(Operation("write", self.path, data=data, offset=self.size))
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self.size)
            self.size += written
            view = view[written:]

    def pieces(self, piece_bytes: int = 1 << 20) -> Iterator[bytes]:
        """What the file holds now, from its beginning."""
        offset = 0
        while piece := os.pread(self._fd, piece_bytes, offset):
            offset += len(piece)
            yield piece

    def truncate(self, size: int) -> None:
        watch(Operation("truncate", self.path, offset=size))
        os.ftruncate(self._fd, size)
        self.size = size

    def sync(self) -> None:
        watch(Operation("sync", self.path))
        _sync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> OutFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def make_folder(path: Path) -> None:
    """Make a private folder, durably; its parent must exist. Nothing happens where it exists."""
    if path.is_dir():
        return
    watch(Operation("folder", path))
    path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """What another program wrote there is on the disk once this returns."""
    watch(Operation("sync", path))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    watch(Operation("sync_folder", path))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def rename(path: Path, to: Path) -> None:
    """Atomic replacement, durable once it returns: the folder of `to` is synced."""
    watch(Operation("rename", path, to=to))
    path.replace(to)
    sync_folder(to.parent)


def replace(path: Path, to: Path) -> None:
    """As `rename`, without waiting for the disk."""
    watch(Operation("rename", path, to=to))
    path.replace(to)


def link(path: Path, to: Path) -> None:
    """A hard link. Not synced: what hangs on links is made again where it is missing."""
    watch(Operation("link", path, to=to))
    os.link(path, to)


def remove(path: Path) -> None:
    """Take a file away; nothing happens where there is none. Not synced: garbage that comes back is collected again."""
    watch(Operation("remove", path))
    path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Take a folder and all in it away, links themselves and never what they point to."""
    for below in sorted(path.iterdir()):
        if below.is_dir() and not below.is_symlink():
            remove_tree(below)
        else:
            remove(below)
    watch(Operation("remove", path))
    path.rmdir()


def publish_bytes(path: Path, data: bytes, tmp: Path, *, durable: bool = True) -> None:
    """Put a small file at `path`, whole or not at all. tmp: folder on the same file system. durable false: it does not
    wait for the disk, and a power cut may leave nothing, an older file or an empty one; for what is written often and
    may be lost."""
    temporary = tmp / f"write-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with OutFile(temporary, keep=False) as out:
            out.write(data)
            if durable:
                out.sync()
        if durable:
            rename(temporary, path)
        else:
            replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
