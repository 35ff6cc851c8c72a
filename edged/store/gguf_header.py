"""The keys and values at the beginning of a GGUF file, without numpy and without a byte of the weights.

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. Arrays (vocabulary, merges, scores) are passed over.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

Scalar = str | int | float | bool

_MAGIC = b"GGUF"
#: Keys of a file; real ones have some dozens.
_MOST_KEYS = 4096
_STRING, _ARRAY = 8, 9
#: By type: how `struct` reads it.
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class NotGguf(ValueError):
    """The file is no GGUF, or is damaged where its keys are."""


def read(path: Path) -> dict[str, Scalar | None]:
    """In the file's order; an array is None. Takes tens of milliseconds where a vocabulary is to be passed over. Raises
    NotGguf, and OSError."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).keys()
        except (ValueError, struct.error, IndexError) as error:
            raise NotGguf(f"{path.name} is no GGUF, or damaged in its header ({error})") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def keys(self) -> dict[str, Scalar | None]:
        magic, version = self._data[:4], self._data[4:8]
        if magic != _MAGIC or version not in (b"\2\0\0\0", b"\3\0\0\0"):
            raise ValueError("no GGUF of version 2 or 3")
        self._at = 16
        count = self._number("<Q")
        if count > _MOST_KEYS:
            raise ValueError(f"{count} keys")
        return {self._string(): self._value() for _ in range(int(count))}

    def _number(self, form: str) -> int | float | bool:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        number: int | float | bool = value
        return number

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("cut short")

    def _string(self) -> str:
        size = int(self._number("<Q"))
        begin = self._at
        self._skip(size)
        return self._data[begin:self._at].decode(errors="replace")

    def _value(self) -> Scalar | None:
        kind = int(self._number("<I"))
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            self._pass_array()
            return None
        return self._number(_scalar(kind))

    def _pass_array(self) -> None:
        kind, count = int(self._number("<I")), int(self._number("<Q"))
        if kind == _STRING:
            # Each takes bytes of the file, so the file's end bounds a count that lies.
            for _ in range(count):
                self._skip(int(self._number("<Q")))
        elif kind == _ARRAY:
            raise ValueError("arrays of arrays")
        else:
            self._skip(count * struct.calcsize(_scalar(kind)))


def _scalar(kind: int) -> str:
    try:
        return _SCALARS[kind]
    except KeyError:
        raise ValueError(f"type {kind}") from None
