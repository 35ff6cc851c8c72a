"""Frames on a stream socket: 4 bytes big-endian length, then one msgpack value (msgspec tagged union).

Both ends are edged's own; a frame over MAX_FRAME or one that does not decode means a broken peer and raises
FrameError, upon which the connection is closed.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import msgspec

from edged.ipc.messages import FromWorker, ToWorker

if TYPE_CHECKING:
    import asyncio  # a worker has no use for it, and it takes a tenth of its imports

MAX_FRAME = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")

_encoder = msgspec.msgpack.Encoder()
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class FrameError(Exception):
    """The peer sent what is no frame."""


def encode(message: ToWorker | FromWorker) -> bytes:
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def _body_length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    return length


def _receive_exactly(sock: socket.socket, count: int) -> bytes | None:
    """None at the end of the stream, in the middle of a frame too: the peer died."""
    parts = bytearray()
    while len(parts) < count:
        try:
            piece = sock.recv(min(count - len(parts), 1 << 20))
        except ConnectionError:
            return None
        if not piece:
            return None
        parts += piece
    return bytes(parts)


def receive(sock: socket.socket) -> ToWorker | None:
    """Worker side, blocking. None when the daemon is gone."""
    if (header := _receive_exactly(sock, _LENGTH.size)) is None:
        return None
    if (body := _receive_exactly(sock, _body_length(header))) is None:
        return None
    try:
        return to_worker.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from error


async def read(stream: asyncio.StreamReader) -> FromWorker | None:
    """Daemon side. None when the worker is gone."""
    try:
        body = await stream.readexactly(_body_length(await stream.readexactly(_LENGTH.size)))
    except (EOFError, ConnectionError):
        return None
    try:
        return from_worker.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from error
