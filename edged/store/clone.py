"""Copies of files that share their blocks with the source where the file system can (btrfs, XFS, APFS, bcachefs)."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable
from pathlib import Path

from edged.store import files
from edged.store.blobs import PIECE_BYTES

#: FICLONE of linux/fs.h: _IOW(0x94, 9, int).
_FICLONE = 0x40049409


def share_blocks(source_fd: int, target_fd: int) -> bool:
    """Make the empty target a clone of the source. False where the file system cannot; nothing happened then.

    APFS clones only by path into a new file, which cannot keep the target's lock and mode; there it is a copy."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError:
        return False
    return True


def copy(source: Path, target: Path, progress: Callable[[int], None] | None = None) -> None:
    """A private copy at a new path."""
    with source.open("rb", buffering=0) as stream, files.OutFile(target, keep=False) as out:
        if share_blocks(stream.fileno(), out.fd):
            return
        while piece := stream.read(PIECE_BYTES):
            out.write(piece)
            if progress is not None:
                progress(len(piece))
