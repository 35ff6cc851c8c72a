"""A sign of life during a run that takes long by its nature, one input of many thousand tokens on a small processor:
the daemon would take its silence for a hang. Only for as long as the measured rate explains: a hang stays one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 1.0
#: Attention takes the square of the length, and the rate was measured on shorter ones, perhaps in a quieter moment.
PATIENCE = 10.0


@contextmanager
def alive(expected_s: float, say: Callable[[], None]) -> Iterator[None]:
    """`say` is called every second from another thread, for PATIENCE times as long as expected at most; never where
    half a second is expected."""
    if expected_s < EVERY_S / 2:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        for _ in range(int(expected_s * PATIENCE / EVERY_S)):
            if ended.wait(EVERY_S):
                return
            say()

    thread = threading.Thread(target=beat, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
