"""Where an ONNX graph says that its weights lie. A graph that comes from elsewhere must not make the runtime read other
files than those of its own folder (PROMISES T6; CVE-2022-25882, CVE-2024-27318, CVE-2024-5187).

The file is protocol buffers (https://protobuf.dev/programming-guides/encoding/, field numbers of onnx.proto). Only
the messages that can lead to a tensor are entered; all others, the weights among them, are stepped over, so that two
gigabytes of graph cost as many reads as it has nodes. It reads as strictly as the C++ parser or more so: what that
would refuse, this refuses, so that both see the same file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from edged.errors import RefusedFile
from edged.store.paths import checked_relative

#: Messages within messages at most; the C++ parser allows 100.
MOST_DEPTH = 100
#: A location is a file name: longer ones are none.
_MOST_LOCATION_BYTES = 4096
_LOCATION = b"location"

#: Of each message: field number → the message in that field. `Entry` is StringStringEntryProto.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Malformed(Exception):
    pass


def is_graph(path: str) -> bool:
    return path.lower().endswith(".onnx")


def locations(stream: BinaryIO) -> Iterator[str]:
    """Every `location` of external data: of initializers, sparse ones, attributes, subgraphs, functions and training
    graphs, in the order of the file, as often as it is said. Raises RefusedFile where this is no ONNX file."""
    try:
        size = stream.seek(0, os.SEEK_END)
        yield from _walk(stream, size)
    except (_Malformed, UnicodeDecodeError) as error:
        raise RefusedFile(f"the graph is damaged or no ONNX file ({error}); get the model again") from error


def check(path: str, stream: BinaryIO, members: Collection[str]) -> set[str]:
    """The files that the graph `path` reads its weights from, as paths in the model's folder. members: all files of
    that folder. Raises RefusedFile where one is not among them."""
    beside = PurePosixPath(path).parent
    found: set[str] = set()
    try:
        for location in locations(stream):
            if location in found:
                continue
            inside = checked_relative(location.removeprefix("./"))
            member = (beside / inside).as_posix()
            if member not in members:
                raise RefusedFile(f"it reads weights from {location[:80]!r}, which is no file of the model")
            found.add(member)
    except RefusedFile as error:
        raise RefusedFile(f"{path} is refused: {error.message}") from error
    return found


def _walk(stream: BinaryIO, size: int) -> Iterator[str]:
    """Depth first, without recursion. Each open message: its kind and where it ends."""
    open_messages: list[tuple[str, int]] = [("Model", size)]
    at = stream.seek(0)
    while open_messages:
        kind, end = open_messages[-1]
        if at == end:
            open_messages.pop()
            continue
        tag, at = _varint(stream, at, end, most_bytes=5)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag > 0xFFFFFFFF:
            raise _Malformed(f"an impossible field at byte {at}")
        if wire != _BYTES:
            at = _skip(stream, at, end, wire)
            continue
        length, at = _varint(stream, at, end, most_bytes=5)
        if length > end - at:
            raise _Malformed(f"a field at byte {at} reaches beyond its message")
        inner = _FIELDS[kind].get(number)
        if inner is None:
            at = stream.seek(at + length)
        elif inner == "Entry":
            location = _location(stream, at, at + length)
            at = stream.seek(at + length)
            if location is not None:
                yield location
        elif len(open_messages) == MOST_DEPTH:
            raise _Malformed(f"more than {MOST_DEPTH} graphs within graphs")
        else:
            open_messages.append((inner, at + length))


def _location(stream: BinaryIO, at: int, end: int) -> str | None:
    """The value of a key-value pair whose key is `location`. A field that is there twice counts as its last, so any of
    several keys or values may be the one: then all of them are refused."""
    keys: list[bytes] = []
    values: list[bytes] = []
    while at < end:
        tag, at = _varint(stream, at, end, most_bytes=5)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag > 0xFFFFFFFF:
            raise _Malformed(f"an impossible field at byte {at}")
        if wire != _BYTES:
            at = _skip(stream, at, end, wire)
            continue
        length, at = _varint(stream, at, end, most_bytes=5)
        if length > end - at:
            raise _Malformed(f"a field at byte {at} reaches beyond its message")
        if number in (1, 2):
            # Of other keys the value may be long; of no location more is needed than that it is too long.
            (keys if number == 1 else values).append(_exactly(stream, min(length, _MOST_LOCATION_BYTES + 1)))
        at = stream.seek(at + length)
    if _LOCATION not in keys:
        return None
    if len(keys) != 1 or len(values) > 1:
        raise _Malformed("the place of a tensor is said twice")
    if values and len(values[0]) > _MOST_LOCATION_BYTES:
        raise _Malformed("the name of a file is longer than any can be")
    return values[0].decode() if values else ""


def _skip(stream: BinaryIO, at: int, end: int, wire: int) -> int:
    """Past a field that is no bytes. Groups are of an old protocol; no exporter writes them."""
    if wire == _VARINT:
        return _varint(stream, at, end, most_bytes=10)[1]
    if wire not in (_FIXED64, _FIXED32):
        raise _Malformed(f"a group or an unknown kind of field at byte {at}")
    after = at + (8 if wire == _FIXED64 else 4)
    if after > end:
        raise _Malformed(f"a field at byte {at} reaches beyond its message")
    return stream.seek(after)


def _varint(stream: BinaryIO, at: int, end: int, *, most_bytes: int) -> tuple[int, int]:
    """The number and the place after it."""
    value = 0
    for count in range(most_bytes):
        if at >= end:
            raise _Malformed(f"it ends in the middle of a number at byte {at}")
        byte = _exactly(stream, 1)[0]
        at += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at
    raise _Malformed(f"a number without an end at byte {at}")


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise _Malformed("it is cut short")
    return data
