"""KV of all rows in plain memory, one buffer for the keys and one for the values of each layer.

A buffer has the shape [slots, heads, context, size of a head]; a row's first `length` tokens lie at [slot, :, :length].
What lies behind them is stale and never read. Copies move what is held, not the context.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """The keys or the values of one layer. past, present: names of the graph's input and output that share a buffer;
    kind: of the values. size: values of one head for one token, as the graph packs them."""

    past: str
    present: str
    kind: type[np.generic]
    heads: int
    size: int

    @property
    def bytes_per_token(self) -> int:
        return int(self.heads * self.size * np.dtype(self.kind).itemsize)


class KvBuffers:
    """Sole owner of the memory. Slots are the engine's business; nothing here knows rows or lengths."""

    def __init__(self, layers: list[Layer], slots: int, context: int) -> None:
        self.layers = layers
        self._memory = [mmap_of(slots * context * layer.bytes_per_token) for layer in layers]
        self.arrays = [
            np.frombuffer(memory, layer.kind).reshape(slots, layer.heads, context, layer.size)
            for memory, layer in zip(self._memory, layers, strict=True)]

    def copy(self, source: int, target: int, length: int) -> None:
        for array in self.arrays:
            array[target, :, :length] = array[source, :, :length]

    def swap(self, one: int, length: int, other: int, other_length: int) -> None:
        """Slot `one` holds `length` tokens before, slot `other` `other_length`; the other way round after."""
        for array in self.arrays:
            kept = array[one, :, :length].copy()
            array[one, :, :other_length] = array[other, :, :other_length]
            array[other, :, :length] = kept

    def read(self, slot: int, length: int) -> list[Array]:
        return [array[slot, :, :length].copy() for array in self.arrays]

    def write(self, slot: int, length: int, parts: Sequence[Array]) -> None:
        """parts: the memory of what `read` gave."""
        for layer, array, part in zip(self.layers, self.arrays, parts, strict=True):
            array[slot, :, :length] = part.reshape(-1).view(layer.kind).reshape(layer.heads, length, layer.size)

    def forget(self, slot: int, keep: int, length: int) -> None:
        """The slot's tokens from `keep` up to `length` are not wanted any more: the pages that hold nothing else go
        back to the system. On Linux; elsewhere they are kept for what comes next."""
        if sys.platform != "linux":
            return
        for memory, array in zip(self._memory, self.arrays, strict=True):
            _, head_bytes, token_bytes, _ = array.strides
            for head in range(array.shape[1]):
                base = slot * array.strides[0] + head * head_bytes
                start = -(-(base + keep * token_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
                end = (base + length * token_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                if start < end:
                    memory.madvise(mmap.MADV_DONTNEED, start, end - start)

    def release(self) -> None:
        self.arrays.clear()
        self._memory.clear()


def mmap_of(size_bytes: int) -> mmap.mmap:
    """A mapping of its own, whose pages become resident when they are touched, in pages as small as there are: numpy
    asks for huge ones, and a row's first token would then take 2 MiB of each head of each layer."""
    if sys.platform == "linux":
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    else:
        memory = mmap.mmap(-1, size_bytes)
    return memory
