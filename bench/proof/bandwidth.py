"""How fast this machine reads memory: `python -m bench.proof.bandwidth THREADS` prints GB/s of each way, as JSON.

A buffer of 256 MiB for each thread, far larger than any cache, is read whole: by libc's `memchr` for a byte that is not
there, by numpy's sum of 64-bit integers, and by the product of its 32-bit floats with themselves. The bandwidth is what
the fastest run of the fastest way read in a second: no way can be faster than the machine is. A copy (bytes read and
bytes written) is told beside it; weights are only read.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the threads are ours

import numpy as np
from numpy.typing import NDArray

BYTES = 256 << 20
_RUNS = 5

Buffer = NDArray[np.uint8]
Way = Callable[[Buffer, Buffer], object]

_libc = ctypes.CDLL(None)
_libc.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

#: By name, each with the bytes that it moves for each byte of the buffer. All of them leave the interpreter's lock.
READS: dict[str, Way] = {
    "memchr": lambda buffer, spare: _libc.memchr(buffer.ctypes.data, 7, buffer.nbytes),
    "sum": lambda buffer, spare: buffer.view(np.int64).sum(),
    "product": lambda buffer, spare: np.dot(buffer.view(np.float32), buffer.view(np.float32)),
}


def _copy(buffer: Buffer, spare: Buffer) -> None:
    np.copyto(spare, buffer)


def measure(threads: int, size_bytes: int = BYTES) -> dict[str, float]:
    """GB/s by way, all threads together, and `read`, the most of those that only read."""
    buffers, spares = ([np.full(size_bytes, 63, np.uint8) for _ in range(threads)] for _ in range(2))
    with ThreadPoolExecutor(threads) as pool:
        def fastest(way: Way) -> float:
            best_s = float("inf")
            for _ in range(_RUNS):
                began = time.perf_counter()
                list(pool.map(way, buffers, spares))
                best_s = min(best_s, time.perf_counter() - began)
            return size_bytes * threads / best_s / 1e9

        found = {name: fastest(way) for name, way in READS.items()}
        return found | {"read": max(found.values()), "copy": 2 * fastest(_copy)}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
