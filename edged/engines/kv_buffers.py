"""KV of all rows in plain memory, one buffer for the keys and one for the values of each layer.

A buffer has the shape [slots, heads, context, size of a head]; a row's first `length` tokens lie at [slot, :, :length].
What lies behind them is stale and never read. Copies move what is held, not the context.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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


#: Fewer bytes are copied sooner by one thread.
_PARALLEL_BYTES = 4 << 20


class KvBuffers:
    """Sole owner of the memory. Slots are the engine's business; nothing here knows rows or lengths.

    Two threads copy: most of it is the system's first touch of pages that no token was in."""

    def __init__(self, layers: list[Layer], slots: int, context: int) -> None:
        self.layers = layers
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="kv")
        self._token_bytes = sum(layer.bytes_per_token for layer in layers)
        self._memory = [mmap_of(slots * context * layer.bytes_per_token) for layer in layers]
        self.arrays = [
            np.frombuffer(memory, layer.kind).reshape(slots, layer.heads, context, layer.size)
            for memory, layer in zip(self._memory, layers, strict=True)]

    def copy(self, source: int, target: int, length: int) -> None:
        def one(number: int) -> None:
            array = self.arrays[number]
            array[target, :, :length] = array[source, :, :length]

        self._each(one, length)

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
        def one(number: int) -> None:
            layer = self.layers[number]
            part = parts[number].reshape(-1).view(layer.kind)
            self.arrays[number][slot, :, :length] = part.reshape(layer.heads, length, layer.size)

        if len(parts) != len(self.arrays):
            raise ValueError(f"{len(parts)} parts of KV for {len(self.arrays)} buffers")
        self._each(one, length)

    def _each(self, do: Callable[[int], None], length: int) -> None:
        """For the number of each buffer, of which `length` tokens are moved."""
        numbers = range(len(self.arrays))
        if length * self._token_bytes < _PARALLEL_BYTES:
            for number in numbers:
                do(number)
        else:
            half = len(numbers) // 2
            for done in [self._threads.submit(list, map(do, part)) for part in (numbers[:half], numbers[half:])]:
                done.result()

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
        self._threads.shutdown()
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
