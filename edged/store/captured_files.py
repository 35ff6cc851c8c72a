"""The writing side of `captured/`: one file a model at a time, within a quota and an age.

Nothing waits for the disk: a power cut may take the answers of the last half minute, and flash is spared a sync for
each. Files are the unit of removal: a new one is begun each day, when one holds an eighth of the quota, and when one
spans a tenth of the age, so that what goes early for its neighbours' sake is little.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edged.settings import Settings
from edged.store import files
from edged.store.captured import Captured, answered_at, file_name, file_number, whole_lines
from edged.store.files import OutFile
from edged.store.paths import Layout
from edged.store.space import MARGIN_BYTES

_FILES_OF_A_QUOTA = 8
_FILES_OF_AN_AGE = 10


class _Known(NamedTuple):
    size: int
    expires_at: float


class _Open(NamedTuple):
    out: OutFile
    date: str
    began_at: float


class CapturedFiles:
    """Owned by one thread. Other processes may write beside it and remove what it wrote.

    Ages are measured by the clock that never jumps; the wall clock is asked only how old a file was when it was met."""

    def __init__(self, layout: Layout, *, most_bytes: int, most_s: float,
                 clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._layout = layout
        self._captured = Captured(layout)
        self._most_bytes, self._most_s = most_bytes, most_s
        self._clock, self._wall = clock, wall
        self._open: dict[str, _Open] = {}
        self._known: dict[Path, _Known] = {}
        #: Of all files, as they were last looked at, and what was written since. Other threads may read it.
        self.held_bytes = 0

    @property
    def most_line_bytes(self) -> int:
        return self._most_bytes // _FILES_OF_A_QUOTA

    def append(self, model: str, line: bytes) -> None:
        """line: ends with a line break, and is no longer than most_line_bytes. Raises OSError, and then the file is as
        it was before."""
        place = self._place(model, len(line))
        out, before = place.out, place.out.size
        if shutil.disk_usage(out.path.parent).free < MARGIN_BYTES + len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            out.write(line)
        except OSError:
            with contextlib.suppress(OSError):
                out.truncate(before)
            raise
        known = self._known.get(out.path)
        self._known[out.path] = _Known(
            out.size, known.expires_at if known is not None else place.began_at + self._most_s)
        self.held_bytes += len(line)
        if self.held_bytes > self._most_bytes:
            self.tidy()

    def tidy(self) -> int:
        """Removes what is too old, then the oldest above the quota; how many files. Raises OSError where the disk
        refuses."""
        self._look()
        now = self._clock()
        gone = [path for path, known in self._known.items() if known.expires_at <= now]
        left_bytes = self.held_bytes - sum(self._known[path].size for path in gone)
        for path, known in sorted(self._known.items(), key=lambda one: one[1].expires_at):
            if left_bytes <= self._most_bytes:
                break
            if path not in gone:
                gone.append(path)
                left_bytes -= known.size
        for path in gone:
            files.remove(path)
            self.held_bytes -= self._known.pop(path).size
        for model in [model for model, place in self._open.items() if place.out.path in gone]:
            self._close(model)
        return len(gone)

    def purge(self, model: str | None = None) -> int:
        """How many answers of one model, or of all, are gone. Raises NotFound where nothing is kept of the model,
        OSError where the disk refuses."""
        for name in [name for name in self._open if model in (None, name)]:
            self._close(name)
        try:
            return self._captured.purge(model)
        finally:
            self._look()

    def close(self) -> None:
        for model in list(self._open):
            self._close(model)

    def _close(self, model: str) -> None:
        self._open.pop(model).out.close()

    def _place(self, model: str, size: int) -> _Open:
        """Where the next line of the model goes."""
        date = time.strftime("%Y-%m-%d", time.gmtime(self._wall()))
        now = self._clock()
        if (place := self._open.get(model)) is not None:
            if (place.date == date and now - place.began_at < self._most_s / _FILES_OF_AN_AGE
                    and place.out.size + size <= self.most_line_bytes and _is_there(place.out)):
                return place
            self._close(model)
        place = self._open[model] = _Open(self._begin(model, date), date, now)
        self._known[place.out.path] = _Known(0, now + self._most_s)
        return place

    def _begin(self, model: str, date: str) -> OutFile:
        folder = self._layout.captured_of(model)
        files.make_folder(folder.parent)
        files.make_folder(folder)
        taken = [found[1] for path in self._captured.paths(model) if (found := file_number(path)) and found[0] == date]
        for number in itertools.count(max(taken, default=0) + 1):
            # Another process may begin one in the same moment.
            with contextlib.suppress(FileExistsError):
                return OutFile(folder / file_name(date, number), keep=False, new=True)
        raise AssertionError

    def _look(self) -> None:
        """What is there now, whoever wrote it."""
        found: dict[Path, _Known] = {}
        for path in self._captured.paths():
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                known = self._known.get(path)
                found[path] = _Known(size, known.expires_at if known is not None else self._expiry(path))
        self._known = found
        self.held_bytes = sum(known.size for known in found.values())

    def _expiry(self, path: Path) -> float:
        """By its oldest answer; where that cannot be read, by when it was last written."""
        first = next(whole_lines(path), b"")
        at = answered_at(first)
        age_s = max(0.0, self._wall() - (at if at is not None else path.stat().st_mtime))
        return self._clock() + self._most_s - age_s


def _is_there(out: OutFile) -> bool:
    return os.fstat(out.fd).st_nlink > 0


def captured_files(settings: Settings) -> CapturedFiles:
    """Those of a home."""
    return CapturedFiles(
        Layout(settings.home), most_bytes=settings.capture_bytes, most_s=settings.capture_days * 86_400)
