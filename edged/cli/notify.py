"""What the service manager is told: sd_notify(3), which is one datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Nothing is told where no manager asks for it. Never raises, never blocks."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(environment)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    def more_time(self, seconds: float) -> None:
        """The stop takes this long from now; the manager's own limit may be shorter."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    async def keep_alive(self) -> None:
        """Tell the watchdog that this event loop turns, until cancelled: a loop that is blocked is silent (R8).
        Models load in processes of their own, so a long load blocks nothing here."""
        while self._watchdog_s is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 3)

    def _tell(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as talk:
            talk.setblocking(False)
            talk.sendto("\n".join(lines).encode(), address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Within this time it wants to hear from us; None where there is no watchdog, or it watches another process."""
    written = environment.get("WATCHDOG_USEC", "")
    if not written.isdigit() or int(written) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(written) / 1e6
