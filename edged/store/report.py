"""What a pull tells of itself, at most ten times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from edged.store.entries import JobProgress

_INTERVAL_S = 0.1


class Report:
    """One pull's running totals. Owned by the pull's thread."""

    def __init__(self, progress: Callable[[JobProgress], None]) -> None:
        self._progress = progress
        self._stage = "resolving"
        self._file: str | None = None
        self._done_bytes = 0
        self._total_bytes: int | None = None
        self._told_s = 0.0

    def stage(self, stage: str, file: str | None = None) -> None:
        if (stage, file) != (self._stage, self._file):
            self._stage, self._file = stage, file
            self._tell()

    def total(self, total_bytes: int | None) -> None:
        self._total_bytes = total_bytes

    @property
    def done_bytes(self) -> int:
        return self._done_bytes

    def at(self, done_bytes: int) -> None:
        """Bytes of the whole pull that are here."""
        self._done_bytes = done_bytes
        if time.monotonic() - self._told_s >= _INTERVAL_S:
            self._tell()

    def add(self, count: int) -> None:
        self.at(self._done_bytes + count)

    def note(self, text: str) -> None:
        self._tell(text)

    def _tell(self, note: str | None = None) -> None:
        self._told_s = time.monotonic()
        self._progress(JobProgress(
            stage=self._stage, file=self._file, done_bytes=self._done_bytes, total_bytes=self._total_bytes, note=note,
        ))
