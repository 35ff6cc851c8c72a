"""KV of prompts on disk: `kv/<sha256 of the model>/<key>.kv` in the home, each file whole or found out, readable by
this user only (PROMISES T17).

Many processes use the folder at once: workers write and read, daemons expire and purge. Who writes or makes room holds
its lock, so the bounds hold for all of them together; who reads holds nothing, since files come by rename and are
never changed. Use is remembered by a file's time of change. Nothing waits for the disk: a power cut may leave a torn
file, which its checksum tells, and losing one costs a prefill.

Every purge changes a nonce: what a process had before it, it does not write after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

import structlog

from edged.store import files, locks, space
from edged.store.kv_budget import WriteBudget
from edged.store.kv_format import (
    HEAD_BYTES,
    Damaged,
    Header,
    Identity,
    decode_header,
    decode_payload,
    encoded,
    file_bytes,
    header_bytes,
    make_header,
)
from edged.store.paths import Layout, checked_digest
from edged.types import KvCacheSpec

LOCK_TIMEOUT_S = 60.0
_SUFFIX = ".kv"
_TEMPORARY = "write-"
#: A time of change further in the future is of a clock that was wrong.
_CLOCK_SLACK_S = 60.0

log = structlog.get_logger("edged.kv")


class Outcome(Enum):
    """Of a write. THERE: it had been written before. OVER_BUDGET: of today's bytes. NO_ROOM: it is larger than all
    files may be together, or the disk has no room to spare. PURGED: it is of before a purge."""

    WRITTEN = auto()
    THERE = auto()
    OVER_BUDGET = auto()
    NO_ROOM = auto()
    PURGED = auto()


class Found(NamedTuple):
    """One file, by its header alone."""

    path: Path
    header: Header


class _Held(NamedTuple):
    used_at: float
    path: Path
    size: int


class KvFolder:
    """Has no state but on disk; any thread of any process may use one."""

    def __init__(self, root: Path, *, most_bytes: int, write_bytes_per_day: int, ttl_s: float,
                 wall: Callable[[], float] = time.time) -> None:
        """root: made where its parent is there."""
        self.most_bytes = most_bytes
        self._root, self._ttl_s, self._wall = root, ttl_s, wall
        self._budget = WriteBudget(root / "written.json", write_bytes_per_day, wall)
        self._nonce = root / "purged"

    def held_bytes(self, model: str | None = None) -> int:
        """Of all models, or of the one with this digest."""
        held = self._all() if model is None else self._in(self._root / checked_digest(model))
        return sum(one.size for one in held)

    def left_today_bytes(self) -> int:
        """What may still be written."""
        return self._budget.left_bytes()

    def purges(self) -> str:
        """Changes with every purge."""
        with contextlib.suppress(OSError):
            return self._nonce.read_text("utf-8", errors="replace")
        return ""

    def of_model(self, digest: str) -> list[Found]:
        """Its files, the most recently used first, by their headers only. Damaged and expired ones are removed."""
        held = sorted(self._in(self._root / checked_digest(digest)), reverse=True)
        return [found for one in held if (found := self._found(one, digest)) is not None]

    def find(self, identity: Identity) -> Found | None:
        """Its file, if there is one; it does not count as used by this."""
        path = self._path(identity)
        with contextlib.suppress(OSError):
            status = path.stat()
            return self._found(_Held(status.st_mtime, path, status.st_size), identity.model)
        return None

    def read(self, found: Found) -> list[memoryview] | None:
        """The parts, verified; from now on it counts as used. None where it is gone, expired, or damaged: then it is
        removed."""
        try:
            status = found.path.stat()
            if self._expired(_Held(status.st_mtime, found.path, status.st_size)):
                raise Damaged("nobody used it for long")
            header, payload = self._open(found.path, payload=True)
            if header != found.header:
                raise Damaged("it is not what it was")
            parts = decode_payload(header, payload)
        except Damaged as error:
            self.remove(found.path, reason=str(error))
            return None
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self.remove(found.path, reason=f"it cannot be read: {error.strerror}")
            return None
        self._touch(found.path)
        return parts

    def write(self, identity: Identity, parts: Sequence[memoryview], *, purges: str,
              go_on: Callable[[], bool] = lambda: True) -> Outcome:
        """For a background thread: takes as long as the disk does, and as those who write before. purges: as `purges`
        said it before the KV was taken. go_on: asked between pieces; False gives it up, as PURGED. The least recently
        used files make room. Raises OSError, and leaves nothing then."""
        path = self._path(identity)
        header = make_header(identity, parts)
        size = file_bytes(header)
        if size > self.most_bytes:
            return Outcome.NO_ROOM
        files.make_folder(self._root)
        with self._locked():
            if self.purges() != purges or not go_on():
                return Outcome.PURGED
            if path.exists():
                self._touch(path)
                return Outcome.THERE
            if size > self._budget.left_bytes():
                return Outcome.OVER_BUDGET
            self._make_room(size)
            if shutil.disk_usage(self._root).free < size + space.MARGIN_BYTES:
                return Outcome.NO_ROOM
            if not self._budget.spend(size):
                return Outcome.OVER_BUDGET
            files.make_folder(path.parent)
            return Outcome.WRITTEN if self._publish(path, encoded(header, parts), go_on) else Outcome.PURGED

    def remove(self, path: Path, *, reason: str) -> None:
        """One file, which any process may have removed already."""
        log.debug("kv.removed", file=path.name, reason=reason)
        with contextlib.suppress(OSError):
            files.remove(path)

    def expire(self) -> int:
        """Takes away what nobody used for too long, what is over the bound, and what those left who died while they
        wrote. Returns how many files. A time of use in the future begins anew now, since the clock was wrong.
        Raises OSError."""
        if not self._root.is_dir():
            return 0
        count = 0
        with self._locked():
            for temporary in self._root.rglob(f"{_TEMPORARY}*"):
                files.remove(temporary)
            for held in self._all():
                if self._expired(held):
                    files.remove(held.path)
                    count += 1
                elif held.used_at > self._wall() + _CLOCK_SLACK_S:
                    self._touch(held.path)
            count += self._make_room(0)
            for folder in self._folders():
                with contextlib.suppress(OSError):
                    folder.rmdir()
        return count

    def purge(self) -> int:
        """Takes everything away, of all models; how many files that were. What was computed before is not written any
        more, by no process. Raises OSError where that cannot be said."""
        if not self._root.is_dir():
            return 0
        with self._locked():
            files.publish_bytes(self._nonce, secrets.token_hex(16).encode(), self._root, durable=False)
            held = list(self._all())
            for folder in self._folders():
                files.remove_tree(folder)
        return len(held)

    def _found(self, held: _Held, digest: str) -> Found | None:
        try:
            if self._expired(held):
                raise Damaged("nobody used it for long")
            header = self._open(held.path, payload=False)[0]
            if header.identity.model != digest or held.path.stem != header.identity.key:
                raise Damaged("it lies under another name")
        except Damaged as error:
            self.remove(held.path, reason=str(error))
            return None
        except OSError:
            return None
        return Found(held.path, header)

    def _path(self, identity: Identity) -> Path:
        return self._root / checked_digest(identity.model) / f"{identity.key}{_SUFFIX}"

    def _locked(self) -> locks.Lock:
        """Raises TimeoutError, an OSError, where a process that hangs has it."""
        began_s = time.monotonic()

        def give_up() -> None:
            if time.monotonic() - began_s > LOCK_TIMEOUT_S:
                raise TimeoutError(errno.ETIMEDOUT, "another process has held the lock of the KV files for a minute")

        return locks.lock(self._root / "lock", waiting=give_up)

    def _expired(self, held: _Held) -> bool:
        return self._wall() - held.used_at > self._ttl_s

    def _touch(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            now = self._wall()
            os.utime(path, (now, now))

    def _folders(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [entry for entry in self._root.iterdir() if entry.is_dir() and not entry.is_symlink()]
        return []

    def _all(self) -> Iterator[_Held]:
        for folder in self._folders():
            yield from self._in(folder)

    def _in(self, folder: Path) -> Iterator[_Held]:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield _Held(status.st_mtime, Path(entry.path), status.st_size)

    def _make_room(self, count: int) -> int:
        """The least recently used go until `count` bytes more are within the bound."""
        held = sorted(self._all())
        over = sum(one.size for one in held) + count - self.most_bytes
        removed = 0
        for one in held:
            if over <= 0:
                break
            files.remove(one.path)
            over -= one.size
            removed += 1
        return removed

    def _publish(self, path: Path, pieces: Iterator[bytes], go_on: Callable[[], bool]) -> bool:
        """False where it was given up."""
        temporary = path.parent / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        done = False
        try:
            with files.OutFile(temporary, keep=False) as out:
                for piece in pieces:
                    if not go_on():
                        return False
                    out.write(piece)
            files.replace(temporary, path)
            now = self._wall()
            os.utime(path, (now, now))
            done = True
        finally:
            if not done:
                with contextlib.suppress(OSError):
                    files.remove(temporary)
        return True

    def _open(self, path: Path, *, payload: bool) -> tuple[Header, bytes]:
        """Read plainly, not mapped: a page that the disk cannot give would be a SIGBUS. Raises Damaged, OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            head = _pread(fd, HEAD_BYTES, 0)
            length = header_bytes(head)
            header = decode_header(head, _pread(fd, length, HEAD_BYTES), os.fstat(fd).st_size)
            return header, _pread(fd, header.payload_bytes, HEAD_BYTES + length) if payload else b""
        finally:
            os.close(fd)


def _pread(fd: int, count: int, offset: int) -> bytes:
    """In one piece where the system gives it so: states are large, and another copy costs what reading does."""
    piece = os.pread(fd, count, offset)
    if len(piece) in (0, count):
        return piece
    pieces = [piece]
    while (left := count - sum(map(len, pieces))) and (piece := os.pread(fd, left, offset + count - left)):
        pieces.append(piece)
    return b"".join(pieces)


def kv_folder(spec: KvCacheSpec) -> KvFolder:
    """The one that a worker is told; its `folder` is not empty."""
    return KvFolder(Path(spec.folder), most_bytes=spec.disk_bytes, write_bytes_per_day=spec.write_bytes_per_day,
                    ttl_s=spec.ttl_s)


def forget_model(layout: Layout, digest: str) -> None:
    """Nothing of the model is here any more. A worker that still has it loaded may write anew."""
    with contextlib.suppress(OSError):
        if (folder := layout.kv / checked_digest(digest)).is_dir():
            files.remove_tree(folder)
