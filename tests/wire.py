"""One HTTP exchange on a connection of its own, over which a test has all power: it sends half of a request, reads so
much of the answer as it likes, and goes away in any moment. Plain sockets, so that ten thousand of them cost little.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
#: Going away with this set sends RST instead of FIN.
_AT_ONCE = struct.pack("ii", 1, 0)


def head(port: int, path: str, length: int, *, kind: str = "application/json") -> bytes:
    return (f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: {kind}\r\n"
            f"content-length: {length}\r\n\r\n").encode()


class Wire:
    """`status` and `headers` after `answered`; `done` when a stream said [DONE]."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port, self._reader, self._writer = port, reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False

    @classmethod
    async def connect(cls, port: int) -> Wire:
        return cls(port, *await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def post(self, path: str, body: dict[str, Any] | bytes, *, kind: str = "application/json") -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.send(head(self.port, path, len(content), kind=kind) + content)

    async def send(self, data: bytes) -> None:
        self.done = False
        self._writer.write(data)
        await self._writer.drain()

    async def answered(self) -> int:
        """The status, once all headers are here."""
        block = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = block.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        return self.status

    async def body(self) -> Any:
        return json.loads(await self._reader.readexactly(int(self.headers["content-length"])))

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """To the end of the answer. Chunks hold whole lines, so a line is an event, a comment or a chunk's length."""
        while (line := await self._reader.readline()) != b"0\r\n":
            if not line:
                raise ConnectionError("the answer was cut off")
            if line == b"data: [DONE]\n":
                self.done = True
            elif line.startswith(b"data: "):
                yield json.loads(line[6:])
        await self._reader.readline()

    def silent(self) -> bool:
        """Nothing has come that was not read."""
        return not self._reader._buffer  # type: ignore[attr-defined]

    def leave(self, *, reset: bool = False) -> None:
        sock = self._writer.get_extra_info("socket")
        if reset and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._writer.transport.abort()
        self._writer.close()


def text_of(event: dict[str, Any]) -> str:
    """What an event of a chat or a completion says, of all its choices."""
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or ""
                   for choice in event.get("choices", ()))
