"""The bytes of one KV file: a prefix of tokens, and what an engine computed of it.

    magic (8) · length of header (4) · CRC-32 of header (4) · header, msgpack · payload: the parts, each at a multiple
    of 64 bytes, counted from the payload's beginning

Little-endian. The header holds lengths and CRC-32 of the payload, so both sums together cover every byte of the file.
They find accidents (a torn write, a page of zeros, a bit that fell over), not forgers: the folder is private to its
user. Nothing here knows an engine; a part is its bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

#: The last character is the format's version.
MAGIC = b"edgedkv1"
_HEAD = struct.Struct("<8sII")
HEAD_BYTES = _HEAD.size
#: Of the tokens of the longest contexts; more is no header.
MOST_HEADER_BYTES = 64 << 20
_ALIGNMENT = 64
_WRITE_BYTES = 1 << 20


class Damaged(Exception):
    """It is no KV file of this format, or not whole."""


class Identity(Struct, frozen=True, kw_only=True):
    """What KV was computed of and with; equal ones have equal KV. model: sha256 of its files. state_format: of the
    engine's states (`Facts.state_format`). scope: of the requests that may use it. adapter: what of it changes KV, as
    the worker spells it, empty for none. tokens: ids, 4 bytes each."""

    model: str
    state_format: str
    scope: str
    adapter: str
    tokens: bytes

    @property
    def key(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()

    def token_list(self) -> list[int]:
        return _native(array("I", self.tokens)).tolist()


def token_bytes(tokens: Sequence[int]) -> bytes:
    return _native(array("I", tokens)).tobytes()


class Header(Struct, frozen=True, kw_only=True):
    """parts: their lengths in bytes. checksum: CRC-32 of the payload."""

    identity: Identity
    parts: tuple[int, ...]
    checksum: int

    @property
    def payload_bytes(self) -> int:
        return sum(map(_aligned, self.parts))


def make_header(identity: Identity, parts: Sequence[memoryview]) -> Header:
    """parts: of bytes."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(_gap(part), zlib.crc32(part, checksum))
    return Header(identity=identity, parts=tuple(len(part) for part in parts), checksum=checksum)


def encoded(header: Header, parts: Sequence[memoryview]) -> Iterator[bytes]:
    """The file, in pieces of at most a MiB but for the header."""
    body = msgspec.msgpack.encode(header)
    yield _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body
    for part in parts:
        for start in range(0, len(part), _WRITE_BYTES):
            yield bytes(part[start:start + _WRITE_BYTES])
        yield _gap(part)


def file_bytes(header: Header) -> int:
    """Size of the whole file."""
    return HEAD_BYTES + len(msgspec.msgpack.encode(header)) + header.payload_bytes


def header_bytes(head: bytes) -> int:
    """head: the first HEAD_BYTES of a file. How many bytes the header has that comes next. Raises Damaged."""
    if len(head) < HEAD_BYTES:
        raise Damaged("it is cut off within its first bytes")
    magic, length, _ = _HEAD.unpack(head)
    if magic != MAGIC:
        raise Damaged("it is no KV file of this format")
    if length > MOST_HEADER_BYTES:
        raise Damaged("its header cannot be so long")
    return int(length)


def decode_header(head: bytes, body: bytes, size: int) -> Header:
    """size: of the whole file. Raises Damaged."""
    length = header_bytes(head)
    if len(body) < length or zlib.crc32(body) != _HEAD.unpack(head)[2]:
        raise Damaged("its header is not whole")
    try:
        header = msgspec.msgpack.decode(body, type=Header)
    except msgspec.MsgspecError as error:
        raise Damaged("its header is of another edged") from error
    if len(header.identity.tokens) % 4:
        raise Damaged("its tokens are no tokens")
    if min(header.parts, default=0) < 0 or size != HEAD_BYTES + length + header.payload_bytes:
        raise Damaged("it has another length than its header says")
    return header


def decode_payload(header: Header, payload: bytes) -> list[memoryview]:
    """The parts, which are views of the payload. Raises Damaged."""
    if len(payload) != header.payload_bytes or zlib.crc32(payload) != header.checksum:
        raise Damaged("its content is not what was written")
    parts, at = [], 0
    for length in header.parts:
        parts.append(memoryview(payload)[at:at + length])
        at += _aligned(length)
    return parts


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _gap(part: memoryview) -> bytes:
    return bytes(_aligned(len(part)) - len(part))


def _native(tokens: array[int]) -> array[int]:
    assert tokens.itemsize == 4
    if struct.pack("=I", 1) != struct.pack("<I", 1):
        tokens.byteswap()
    return tokens
