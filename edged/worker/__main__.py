"""`python -m edged.worker FD`: one loaded model, until the socket closes. FD is this end of a socketpair."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback

from msgspec.structs import replace

from edged.engines.base import DeviceLost
from edged.errors import DeviceUnavailable, EdgedError, Internal
from edged.ipc import frames
from edged.ipc.messages import Load, Loading, LoadRefused, Lost, Ready
from edged.worker.journal import journal
from edged.worker.loading import load_service
from edged.worker.outbox import Outbox

#: Silence for longer than this while loading means a hang to the daemon.
LOADING_INTERVAL_S = 2.0
#: After the daemon is gone: for the loop to close in order. It may be in a native call that takes minutes.
EXIT_GRACE_S = 0.3


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    outbox = Outbox(sock)
    first = frames.receive(sock)
    if not isinstance(first, Load):
        return 1
    spec = first.spec
    began_s = time.monotonic()
    try:
        with _Loading(sock, outbox) as loading:
            service = load_service(spec, outbox, loading.progress)
    except EdgedError as error:
        return _refused(outbox, error)
    except DeviceLost as error:
        return _refused(outbox, DeviceUnavailable(f"the device of {spec.name} was lost while it loaded: {error}"))
    except Exception as error:
        journal().exception("load_failed")
        return _refused(outbox, Internal(
            f"{spec.name} could not be loaded: {type(error).__name__}; the log says more"))
    from edged.worker.reader import Reader

    reader = Reader(sock, service.prepare, service.inbox, outbox)
    reader.start()
    threading.Thread(target=_exit_after, args=(reader,), name="exit", daemon=True).start()
    outbox.send(Ready(replace(service.info, load_s=time.monotonic() - began_s)))
    try:
        service.run()
    except DeviceLost as error:
        # Nothing of the engine is closed: calls into a driver that is gone may hang.
        journal().error("device_lost", reason=str(error))
        outbox.send(Lost(str(error)))
        return 0
    service.close()
    return 0


def _refused(outbox: Outbox, error: EdgedError) -> int:
    outbox.send(LoadRefused(error.status, error.type, error.message, error.code, error.retry))
    return 0


class _Loading:
    """While the model loads: a heartbeat, since some libraries say nothing for minutes, and an eye on the daemon, since
    nobody reads the socket yet: without the daemon the process ends, wherever the load is."""

    def __init__(self, sock: socket.socket, outbox: Outbox) -> None:
        self._sock = sock
        self._outbox = outbox
        self._fraction = 0.0
        self._loaded, self._wake = os.pipe()

    def progress(self, fraction: float) -> None:
        self._fraction = fraction

    def __enter__(self) -> _Loading:
        self._thread = threading.Thread(target=self._watch, name="loading", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._wake)
        self._thread.join()
        os.close(self._loaded)

    def _watch(self) -> None:
        ends = select.poll()
        ends.register(self._sock, getattr(select, "POLLRDHUP", 0))
        ends.register(self._loaded, select.POLLIN)
        while True:
            self._outbox.send(Loading(self._fraction))
            for descriptor, _ in ends.poll(LOADING_INTERVAL_S * 1000):
                if descriptor == self._loaded:
                    return
                os._exit(0)


def _exit_after(reader: threading.Thread) -> None:
    reader.join()
    time.sleep(EXIT_GRACE_S)
    os._exit(0)


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    # Native libraries may hang or crash in their own exit handlers; nothing of ours is left to do.
    os._exit(code)
