"""Room on the store's disk, asked for before the first byte."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from edged.errors import InsufficientStorage

#: Left free for logs, manifests and everyone else.
MARGIN_BYTES = 64 * 1024 * 1024


def in_words(count: int) -> str:
    """1.5 GB, 98.4 MB, 12 kB: powers of ten, as disks are sold."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full() -> InsufficientStorage:
    return InsufficientStorage(
        "the disk of the store became full in the middle; what was fetched is removed and nothing was installed. "
        "`edged gc` frees what no model uses, `edged rm NAME` a model"
    )


def require(
    folder: Path, need_bytes: int, *, task: str = "the pull",
    advice: str = "`edged gc` frees what no model uses, `edged rm NAME` a model",
) -> None:
    """Raises InsufficientStorage with need and free, when the disk of `folder` has no room for that much more."""
    free_bytes = shutil.disk_usage(folder).free
    if need_bytes > 0 and need_bytes + MARGIN_BYTES > free_bytes:
        raise InsufficientStorage(
            f"{task} needs {in_words(need_bytes)} and {in_words(MARGIN_BYTES)} to spare, and the disk has "
            f"{in_words(free_bytes)} free. {advice}"
        )
