"""The worker's end of the socket for sending. Several threads send (loader heartbeat, preparation, step loop), so one
lock keeps frames whole."""

from __future__ import annotations

import socket
import threading

from edged.errors import EdgedError
from edged.ipc import frames
from edged.ipc.messages import Events, FromWorker
from edged.types import Event, Failed


class Outbox:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        """Blocks while the daemon does not read. Silent when it is gone: the reader sees that and ends the process."""
        self._send(frames.encode(message))

    def _send(self, data: bytes) -> None:
        with self._lock:
            try:
                self._sock.sendall(data)
            except OSError:
                return

    def events(self, events: list[Event]) -> None:
        """One frame; more where they are too large for one, as the log-probabilities of many echoed prompts may be."""
        if not events:
            return
        try:
            data = frames.encode(Events(events))
        except frames.FrameError:
            if len(events) == 1:
                raise
            middle = len(events) // 2
            self.events(events[:middle])
            self.events(events[middle:])
            return
        self._send(data)


def failed(request: str, error: EdgedError) -> Failed:
    return Failed(
        id=request, status=error.status, type=error.type, message=error.message, code=error.code, param=error.param,
        retry=error.retry,
    )
