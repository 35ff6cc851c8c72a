"""Reads frames from the daemon. Preparation (template, tokenizer) runs in a small pool, so that one slow template
delays neither the step loop nor anybody's cancel."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import structlog

from edged.errors import EdgedError, Internal
from edged.ipc import frames
from edged.ipc.messages import Cancel, Forget, Load, Pause, Resume, Submit
from edged.types import Finished, Rendered, Request, Usage
from edged.worker.orders import Closed, Order, Queued
from edged.worker.outbox import Outbox, failed

PREPARE_THREADS = 2

log = structlog.get_logger("worker")


class Reader(threading.Thread):
    """Orders for one request reach the loop in the order the daemon sent them, except that a cancel may come before
    the request is prepared: it is then dropped here."""

    def __init__(self, sock: socket.socket, prepare: Callable[[Request], Any], inbox: SimpleQueue[Order[Any]],
                 outbox: Outbox) -> None:
        """prepare: thread-safe; gives what the loop takes, or `Rendered` where that is all that was asked. Raises an
        EdgedError for a request that cannot run."""
        super().__init__(name="reader", daemon=True)
        self._sock = sock
        self._prepare = prepare
        self._inbox = inbox
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(PREPARE_THREADS, thread_name_prefix="prepare")
        self._lock = threading.Lock()
        # Requests that are being prepared, with the orders that came for them meanwhile.
        self._preparing: dict[str, list[Order[Any]]] = {}

    def run(self) -> None:
        try:
            while (message := frames.receive(self._sock)) is not None:
                match message:
                    case Submit(request=request):
                        with self._lock:
                            self._preparing[request.id] = []
                        self._pool.submit(self._submit, request, time.monotonic())
                    case Cancel(id=request_id) | Pause(id=request_id) | Resume(id=request_id):
                        with self._lock:
                            if (held := self._preparing.get(request_id)) is not None:
                                held.append(message)
                                continue
                        self._inbox.put(message)
                    case Forget():
                        self._inbox.put(message)
                    case Load():
                        log.error("second_load_refused")
        except frames.FrameError as error:
            log.error("broken_frame", reason=str(error))
        finally:
            self._inbox.put(Closed())

    def _submit(self, request: Request, arrived_s: float) -> None:
        with self._lock:
            if _cancelled(self._preparing[request.id]):
                del self._preparing[request.id]
                return
        try:
            made = self._prepare(request)
        except EdgedError as error:
            self._refuse(request, error)
            return
        except Exception:
            log.exception("preparation_failed", request_id=request.id)
            self._refuse(request, Internal("the request could not be prepared; the worker's log says why"))
            return
        with self._lock:
            held = self._preparing.pop(request.id)
            if _cancelled(held):
                return
            if not isinstance(made, Rendered):
                self._inbox.put(Queued(made, arrived_s))
                for later in held:
                    self._inbox.put(later)
        if isinstance(made, Rendered):
            self._outbox.events([made, Finished(request.id, Usage(len(made.tokens), 0))])

    def _refuse(self, request: Request, error: EdgedError) -> None:
        with self._lock:
            held = self._preparing.pop(request.id)
        if not _cancelled(held):
            self._outbox.events([failed(request.id, error)])


def _cancelled(held: list[Order[Any]]) -> bool:
    return any(isinstance(order, Cancel) for order in held)
