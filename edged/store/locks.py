"""Locks between processes, and leases: `flock` on small files in `locks/`.

The kernel drops a lock when its process dies, so nothing here goes stale. flock itself rather than the filelock
package: leases need shared locks beside exclusive ones on one file, and filelock has only exclusive ones without a
database. Each lock has a file description of its own, so that threads of one process exclude each other too.

Order, so that nobody waits in a circle: pull → tmp → store; model and blob locks are only ever *tried* by those who
hold the store's lock, never waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from edged.store.files import FILE_MODE

_POLL_S = 0.05
#: Nothing can be written there, and on a full disk serving must go on.
_CANNOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


class Lock:
    """A lock that is held until `release` (idempotent) or the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False, folder: bool = False) -> Lock | None:
    """None when another holds it. The file, or folder, is made where there is none; it may have been removed or renamed
    between opening and locking it: then again."""
    while True:
        fd = _open_folder(path) if folder else os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        if _is_at(fd, path):
            return Lock(fd)
        os.close(fd)


def lock(path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None) -> Lock:
    """Wait until it is ours. waiting: called about twenty times a second meanwhile; may raise to give up."""
    while (held := try_lock(path, shared=shared)) is None:
        if waiting is not None:
            waiting()
        time.sleep(_POLL_S)
    return held


def lease(path: Path) -> Lock:
    """A shared lock, waited for (those who hold it exclusively are quick). In a store that cannot be written nobody
    can remove anything either, so a lease that could not be noted down holds all the same."""
    while True:
        try:
            return lock(path, shared=True)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(fd, fcntl.LOCK_SH)
            return Lock(fd)
        return Lock(-1)


def _open_folder(path: Path) -> int:
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
