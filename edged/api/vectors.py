"""Vectors as a worker sends them, and as JSON. Each piece is written as it comes: a thousand vectors at once would hold
up everybody else's tokens."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Raw

from edged.types import Embedded

#: Of one vector, float32 in little-endian order.
Written = Callable[[bytes], Raw]

_encoder = msgspec.json.Encoder()


def vectors_of(event: Embedded) -> Iterator[tuple[int, bytes]]:
    """The number of each input with its vector."""
    size = len(event.data) // len(event.indexes)
    for place, index in enumerate(event.indexes):
        yield index, event.data[place * size:(place + 1) * size]


def numbers(vector: bytes) -> array[float]:
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def as_numbers(vector: bytes) -> Raw:
    return Raw(_encoder.encode(numbers(vector).tolist()))


def as_base64(vector: bytes) -> Raw:
    """As OpenAI's clients read it: the bytes themselves, in base64."""
    return Raw(b'"%b"' % base64.b64encode(vector))
