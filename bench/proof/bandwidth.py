"""How fast this machine reads memory: `python -m bench.proof.bandwidth THREADS` prints GB/s, the best of several ways.

A buffer of 256 MiB for each thread, far larger than any cache, is read whole by numpy's sum of 64-bit integers, by the
sum of 32-bit floats' products with themselves, and copied (bytes read and written both count). Each way runs a few
times; what the fastest run of the fastest way moved in a second is the bandwidth, since none can be faster than the
machine is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the threads are ours

import numpy as np
from numpy.typing import NDArray

BYTES = 256 << 20
_RUNS = 4

Way = Callable[[NDArray[np.int64], NDArray[np.int64]], None]


def _sum(buffer: NDArray[np.int64], spare: NDArray[np.int64]) -> None:
    buffer.sum()


def _product(buffer: NDArray[np.int64], spare: NDArray[np.int64]) -> None:
    floats = buffer.view(np.float32)
    np.dot(floats, floats)


def _copy(buffer: NDArray[np.int64], spare: NDArray[np.int64]) -> None:
    np.copyto(spare, buffer)


#: Each with the bytes that it moves for each byte of the buffer.
WAYS: tuple[tuple[Way, int], ...] = ((_sum, 1), (_product, 1), (_copy, 2))


def bandwidth(threads: int) -> float:
    """Bytes a second, all threads together."""
    buffers = [np.ones(BYTES // 8, np.int64) for _ in range(threads)]
    spares = [np.zeros(BYTES // 8, np.int64) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for way, moved in WAYS:
            for _ in range(_RUNS):
                began = time.perf_counter()
                list(pool.map(way, buffers, spares))
                best = max(best, moved * BYTES * threads / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    print(bandwidth(int(sys.argv[1])) / 1e9)
