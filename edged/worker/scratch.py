"""Buffers of one thread, as long as a vocabulary and kept between steps: pages given back to the system cost more than
the arithmetic."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Scratch(threading.local):
    """Each call gives the same memory again, which holds anything: whoever takes it fills it, and is done with it
    before the next one takes it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Floats] = {}

    def adjusted(self, size: int) -> Floats:
        return self._of("adjusted", size)

    def masked(self, size: int) -> Floats:
        return self._of("masked", size)

    def weights(self, size: int) -> Floats:
        return self._of("weights", size)

    def chosen(self, size: int) -> Floats:
        return self._of("chosen", size)

    def order(self, size: int) -> Floats:
        return self._of("order", size)

    def padded(self, size: int, block: int) -> Floats:
        """A multiple of `block` long; 0 from `size` on."""
        buffer = self._of("padded", math.ceil(size / block) * block)
        buffer[size:] = 0
        return buffer

    def _of(self, use: str, size: int) -> Floats:
        buffer = self._buffers.get(use)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[use] = np.empty(size, np.float32)
        return buffer[:size]


scratch = Scratch()
