"""How uvicorn is run: what it must not spend memory on, and the limits that it lacks.

uvicorn bounds neither the size of a request's header nor the time a client may take to send one. `BoundedProtocol`
does, on the connection itself: T10's slow clients are closed at the deadline, and cost a buffer until then.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from edged.api.errors import rendered
from edged.errors import EdgedError, HeaderTooLarge, InvalidRequest
from edged.settings import Settings

KEEP_ALIVE_S = 75
#: How long the rest of a body that nobody will read is taken in, so that the client can read why.
LINGER_S = 5.0
#: Kernel buffer of what was written and not yet read by the client: about 1,000 streamed tokens.
SEND_BUFFER_BYTES = 256 * 1024


def bounded_protocol(max_header_bytes: int, header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A protocol class with these bounds; uvicorn makes one object of it for each connection."""

    class BoundedProtocol(HttpToolsProtocol):
        """Invariant: while `_deadline` is set the connection is closed when it passes. It runs from the first byte of
        a request until its header is whole, and again while a body drips in after its answer has been given."""

        _deadline: asyncio.TimerHandle | None = None
        _header_size = 0
        _in_header = True
        _whole = True

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if (sock := transport.get_extra_info("socket")) is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._close_in(header_timeout_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._no_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_header:
                self._header_size += len(data)
                if self._deadline is None:
                    self._close_in(header_timeout_s)
            super().data_received(data)
            if self._in_header and self._header_size > max_header_bytes and not self.transport.is_closing():
                self._refuse(HeaderTooLarge(f"The request's headers take more than {max_header_bytes} bytes."))

        def on_message_begin(self) -> None:
            self._whole = False
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_header = False
            self._header_size = 0
            self._no_deadline()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_header = True
            self._whole = True
            self._no_deadline()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._whole and not self.transport.is_closing():
                self._close_in(LINGER_S)

        def _close_in(self, seconds: float) -> None:
            self._no_deadline()
            self._deadline = self.loop.call_later(seconds, self.transport.close)

        def _no_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def send_400_response(self, msg: str) -> None:
            """uvicorn calls this for what it cannot read as HTTP."""
            self._refuse(InvalidRequest("This is not a valid HTTP request.", code="invalid_http"))

        def _refuse(self, error: EdgedError) -> None:
            answer = rendered(error)
            head = b"".join(b"%b: %b\r\n" % pair for pair in answer.headers)
            self.transport.write(STATUS_LINE[answer.status] + head + b"connection: close\r\n\r\n" + answer.body)
            self.transport.close()

    return BoundedProtocol


def server_config(app: ASGIApp, settings: Settings, **more: Any) -> uvicorn.Config:
    """For `uvicorn.Server(config).serve(sockets=[tcp, unix])`. Logs are edged's own; no websockets."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.max_header_bytes, settings.receive_timeout_s),
        ws="none",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        **more,
    )
