"""Memory that a library filled with zeros in advance, given back to the system until it is really used.

llama.cpp clears its whole KV when it makes a context, so that every page of it is resident though most never hold a
token. A page of a private mapping without a file that was given back (`madvise(MADV_DONTNEED)`) reads as zeros when it
is touched next, so for a page of zeros nothing changes but the memory that it takes. Linux only; elsewhere nothing is
done.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_MAPS = Path("/proc/self/maps")
#: Thread stacks and the heaps of allocators are smaller; nobody but the library writes into what is larger and new.
LEAST_BYTES = 32 << 20
#: Looked at, and given back, in pieces of this size.
PIECE_BYTES = 1 << 20
THREADS = 2

Ranges = list[tuple[int, int]]


def private_ranges() -> Ranges:
    """Writable private mappings without a file: [start, end) of each, in order. Empty where nobody tells."""
    if sys.platform != "linux":
        return []
    lines = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0\s*$", _MAPS.read_text(), re.MULTILINE)
    return [(int(start, 16), int(end, 16)) for start, end in lines]


def new_ranges(before: Ranges, after: Ranges) -> Ranges:
    """What `after` covers and `before` does not, where it is large."""
    found: Ranges = []
    for start, end in after:
        at = start
        for known_start, known_end in before:
            if known_end <= at or known_start >= end:
                continue
            if known_start > at:
                found.append((at, known_start))
            at = max(at, known_end)
        if at < end:
            found.append((at, end))
    return [(start, end) for start, end in found if end - start >= LEAST_BYTES]


def give_back_zeros(before: Ranges) -> int:
    """Of the large mappings that are not in `before`, the pieces that hold nothing but zeros. Returns their bytes.

    No other thread may write to those mappings meanwhile: threads of our own may run as long as what they allocate is
    smaller than what counts as large."""
    libc = ctypes.CDLL(None, use_errno=True)

    def given_back(at: int) -> int:
        zeros = _is_zero(libc, at)
        return PIECE_BYTES if zeros and libc.madvise(
            ctypes.c_void_p(at), ctypes.c_size_t(PIECE_BYTES), mmap.MADV_DONTNEED) == 0 else 0

    pieces = [at for start, end in new_ranges(before, private_ranges())
              for at in range(-(-start // PIECE_BYTES) * PIECE_BYTES, end - PIECE_BYTES + 1, PIECE_BYTES)]
    # Both the look and the gift are the system's and memory's work, which one core does not use up.
    with ThreadPoolExecutor(THREADS, thread_name_prefix="pages") as threads:
        shares = [pieces[first::THREADS] for first in range(THREADS)]
        return sum(threads.map(lambda share: sum(map(given_back, share)), shares))


def _is_zero(libc: ctypes.CDLL, at: int) -> bool:
    """Of one piece: its first word is zero, and each byte is the one a word before it."""
    if ctypes.c_uint64.from_address(at).value:
        return False
    return bool(libc.memcmp(ctypes.c_void_p(at), ctypes.c_void_p(at + 8), ctypes.c_size_t(PIECE_BYTES - 8)) == 0)
