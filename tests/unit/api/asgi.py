"""A client without a socket: speaks ASGI to the application, may go away at any time, may read slowly."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

HOST = (b"host", b"127.0.0.1:8343")


@dataclass
class Client:
    """One request. `gone` makes the client go away; `reading` cleared makes it stop reading."""

    app: Any
    path: str
    body: bytes = b""
    method: str = "POST"
    headers: tuple[tuple[bytes, bytes], ...] = (HOST, (b"content-type", b"application/json"))
    server: tuple[str, int | None] | None = ("127.0.0.1", 8343)
    chunk: int = 65536
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reading.set()
        self._left = self.body
        self._sent = False

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            piece, self._left = self._left[: self.chunk], self._left[self.chunk:]
            self._sent = not self._left
            return {"type": "http.request", "body": piece, "more_body": bool(self._left)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.start":
            assert not self.status, "two answers"
            self.status = message["status"]
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert self.status, "a body before its headers"
            assert not self.complete, "more after the end"
            self.pieces.append(message["body"])
            self.complete = not message.get("more_body", False)

    async def run(self) -> Client:
        path, _, query = self.path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self.method, "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
            "headers": list(self.headers), "server": self.server, "client": ("127.0.0.1", 5000), "state": {},
        }
        await self.app(scope, self._receive, self._send)
        return self

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The data of the stream's events, parsed; "[DONE]" as it is. Comments left out."""
        found = []
        for block in self.text.split("\n\n"):
            if block.startswith("data: "):
                data = block.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
        return found


async def ask(app: Any, path: str, body: Any = None, **more: Any) -> Client:
    """POST `body` as JSON and wait for the whole answer."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return await asyncio.wait_for(Client(app, path, raw, **more).run(), 20)


async def get(app: Any, path: str, **more: Any) -> Client:
    return await ask(app, path, method="GET", **{"headers": (HOST,)} | more)
