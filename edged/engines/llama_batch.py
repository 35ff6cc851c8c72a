"""`llama_batch`, filled by hand: tokens of many sequences for one call of llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engines.base import EngineError
from edged.engines.llama_library import lib


class LlamaBatch:
    """Room for `size` tokens, which stays where it is. `filled` counts those that are in it."""

    def __init__(self, size: int) -> None:
        self.filled = 0
        self._size = size
        self._token = np.zeros(size, np.int32)
        self._position = np.zeros(size, np.int32)
        self._sequence = np.zeros(size, np.int32)
        self._wants = np.zeros(size, np.int8)
        # llama.cpp wants a list of sequence ids for each token: pointers into one flat array, of one id each.
        self._one = np.ones(size, np.int32)
        self._lists = self._sequence.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self._batch = lib.llama_batch(
            n_tokens=0, token=_pointer(self._token, lib.llama_token), pos=_pointer(self._position, lib.llama_pos),
            n_seq_id=_pointer(self._one, ctypes.c_int32), logits=_pointer(self._wants, ctypes.c_int8),
            seq_id=_pointer(self._lists, ctypes.POINTER(lib.llama_seq_id)),
        )

    def clear(self) -> None:
        self.filled = 0

    def add(self, tokens: Sequence[int], *, sequence: int, position: int, outputs: int) -> None:
        """position: of the first token; outputs: how many of the last tokens want one. Raises EngineError where there
        is no room."""
        first, end = self.filled, self.filled + len(tokens)
        if end > self._size:
            raise EngineError(f"a step of more than {self._size} tokens")
        self._token[first:end] = tokens
        self._position[first:end] = range(position, position + len(tokens))
        self._sequence[first:end] = sequence
        self._wants[first:end] = 0
        self._wants[end - outputs:end] = 1
        self.filled = end

    @property
    def native(self) -> Any:
        self._batch.n_tokens = self.filled
        return self._batch


def _pointer(array: NDArray[Any], item: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(item))
