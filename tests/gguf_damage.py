"""Ways to spoil a GGUF: the kinds of malformed file that llama.cpp's own tests make (tests/test-gguf.cpp), made of a
good one by overwriting numbers of its header."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

HUGE = 1 << 62
MAGIC, VERSION, TENSOR_COUNT, KEY_COUNT, FIRST_KEY = 0, 4, 8, 16, 24
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9


def kinds(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Every kind by name; none of them may be loaded."""
    places = _Places(good)

    def changed(*changes: tuple[int, str, int]) -> bytes:
        data = bytearray(good)
        for at, form, value in changes:
            struct.pack_into("<" + form, data, at, value)
        return bytes(data)

    yield "empty", b""
    yield "nothing but its magic", good[:4]
    yield "of another kind", b"PK\x03\x04" + good[4:]
    yield "the magic backwards", b"FUGG" + good[4:]
    yield "version 0", changed((VERSION, "I", 0))
    yield "version 1", changed((VERSION, "I", 1))
    yield "a version to come", changed((VERSION, "I", 99))
    yield "the other byte order", changed((VERSION, "I", int.from_bytes(good[4:8], "big")))
    yield "a huge count of tensors", changed((TENSOR_COUNT, "Q", HUGE))
    yield "too many tensors", changed((TENSOR_COUNT, "Q", places.tensors + 1))
    yield "a huge count of keys", changed((KEY_COUNT, "Q", HUGE))
    yield "too many keys", changed((KEY_COUNT, "Q", places.keys + 1))
    yield "no keys and no tensors", good[:8] + bytes(16)
    yield "a huge key", changed((FIRST_KEY, "Q", HUGE))
    yield "an unknown type of value", changed((places.first_type, "I", 77))
    yield "a huge text", changed((places.first_type + 4, "Q", HUGE))
    yield "a huge list", changed((places.list_count, "Q", HUGE))
    yield "a list of lists", changed((places.list_count - 4, "I", _LIST))
    yield "a key twice", _twice(good, places)
    yield "a huge name of a tensor", changed((places.tensor, "Q", HUGE))
    yield "five dimensions", changed((places.dimensions, "I", 5))
    yield "a dimension below zero", changed((places.dimensions + 4, "q", -1))
    yield "a dimension too big", changed((places.dimensions + 4, "Q", HUGE))
    yield "more bytes than 64 bits count", changed(
        (places.dimensions + 4, "Q", 1 << 33), (places.dimensions + 12, "Q", 1 << 33))
    yield "an unknown type of tensor", changed((places.type, "I", 200))
    yield "a type of tensor that is no more", changed((places.type, "I", 4))
    yield "a type of blocks that do not fit", changed((places.dimensions + 4, "Q", 255), (places.type, "I", 12))
    yield "an offset out of line", changed((places.offset, "Q", 1))
    yield "an offset behind the end", changed((places.offset, "Q", len(good) // 32 * 32 + 32))
    yield "a huge offset", changed((places.offset, "Q", HUGE // 32 * 32))
    yield "no weights behind the header", good[:places.end]


class _Places:
    """Where the numbers lie. tensor: the length of the first tensor's name; end: of the header."""

    def __init__(self, good: bytes) -> None:
        self.tensors, self.keys = struct.unpack_from("<QQ", good, TENSOR_COUNT)
        self.list_count = 0
        self._good = good
        at = FIRST_KEY
        self.first_type = self._after_text(at)
        for _ in range(self.keys):
            at = self._after_value(self._after_text(at))
            self.first_end = getattr(self, "first_end", at)
        self.tensor = at
        self.dimensions = self._after_text(at)
        self.type = self.dimensions + 4 + 8 * self._number("I", self.dimensions)
        self.offset = self.type + 4
        for _ in range(self.tensors):
            at = self._after_text(at)
            at += 4 + 8 * self._number("I", at) + 4 + 8
        self.end = at

    def _number(self, form: str, at: int) -> int:
        return int(struct.unpack_from("<" + form, self._good, at)[0])

    def _after_text(self, at: int) -> int:
        return at + 8 + self._number("Q", at)

    def _after_value(self, at: int) -> int:
        kind, at = self._number("I", at), at + 4
        if kind == _TEXT:
            return self._after_text(at)
        if kind != _LIST:
            return at + _SIZES[kind]
        inner, count = self._number("I", at), self._number("Q", at + 4)
        self.list_count = at + 4
        after: Callable[[int], int] = (
            self._after_text if inner == _TEXT else lambda place: place + _SIZES[inner])
        at += 12
        for _ in range(count):
            at = after(at)
        return at


def _twice(good: bytes, places: _Places) -> bytes:
    """The first key and its value once more. What follows moves, its alignment too; the key is looked at first."""
    first = good[FIRST_KEY:places.first_end]
    return good[:KEY_COUNT] + struct.pack("<Q", places.keys + 1) + first + good[FIRST_KEY:]
