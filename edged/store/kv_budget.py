"""How much may be written to flash: a count of the bytes of each of the last 24 hours, kept in a small file.

The file outlives restarts and is shared by all who write below it; they hold the folder's lock meanwhile. The wall
clock may jump (PROMISES R11): what then lies in the future counts as written now, so that a clock that went back stops
no writes for longer than a day, and one that went forward allows a budget more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edged.store import files

_HOUR_S = 3600
_HOURS = 24


class WriteBudget:
    def __init__(self, path: Path, bytes_per_day: int, wall: Callable[[], float] = time.time) -> None:
        self._path, self._bytes_per_day, self._wall = path, bytes_per_day, wall

    def left_bytes(self) -> int:
        return max(0, self._bytes_per_day - sum(self._written().values()))

    def spend(self, count: int) -> bool:
        """Note down `count` bytes before they are written; False, and nothing noted, where they are too many. Raises
        OSError where it cannot be noted down: then nothing may be written either."""
        written = self._written()
        if sum(written.values()) + count > self._bytes_per_day:
            return False
        hour = self._hour()
        written[hour] = written.get(hour, 0) + count
        files.publish_bytes(self._path, msgspec.json.encode(written), self._path.parent, durable=False)
        return True

    def _hour(self) -> int:
        return int(self._wall() // _HOUR_S)

    def _written(self) -> dict[int, int]:
        """Bytes by hour since 1970. A ledger that a power cut has damaged begins anew."""
        said: dict[int, int] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            said = msgspec.json.decode(self._path.read_bytes(), type=dict[int, int])
        now = self._hour()
        kept: dict[int, int] = {}
        for hour, count in said.items():
            if now - hour <= _HOURS:
                kept[min(hour, now)] = kept.get(min(hour, now), 0) + max(0, count)
        return kept
