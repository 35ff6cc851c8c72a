"""Answers that are kept for their clients: `responses/<id>.json` in the home, each whole or not at all, readable by
this user only (PROMISES T17).

Bounded by count, bytes and age; the least recently used go first. Use is remembered by a file's time of change, so that
a restart keeps the order. Nothing waits for the disk: a power cut may take the answers of the last half minute, which
is told by name when one of them is asked for, and flash is spared two syncs an answer.

What an answer and its input look like is the API's own; here both are JSON that nobody looks into.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from edged.errors import Conflict, CorruptFile, InsufficientStorage, NotFound
from edged.settings import Settings
from edged.store import files, space
from edged.store.paths import Layout

_SUFFIX = ".json"
_ID = re.compile(r"resp_([0-9a-f]{8})[0-9a-f]{32}")
#: Half-written files of a process that died; another daemon of the same home may be writing a younger one.
_ABANDONED_S = 3600.0


class Record(Struct, frozen=True, kw_only=True):
    """client: who may read it, as `Caller.client` names them. previous: the one that it continues. running: it was
    begun in the background; found so after a restart, it was broken off."""

    id: str
    client: str
    previous: str | None = None
    running: bool = False
    response: msgspec.Raw
    inputs: msgspec.Raw


class _Kept(NamedTuple):
    size: int
    expires_at: float


def new_id(now: float | None = None) -> str:
    """`resp_`, 8 hex digits of the time (seconds since 1970), and 128 random bits: nobody guesses another's."""
    created = int(time.time() if now is None else now) & 0xFFFFFFFF
    return f"resp_{created:08x}{secrets.token_hex(16)}"


class ResponseFiles:
    """Owned by one thread. `open` comes first.

    Ages are measured by the clock that never jumps; the wall clock is asked only how old a file was at `open`."""

    def __init__(self, folder: Path, *, most: int, most_bytes: int, most_s: float,
                 clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._most, self._most_bytes, self._most_s = most, most_bytes, most_s
        self._clock, self._wall = clock, wall
        #: Least recently used first.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    @property
    def on(self) -> bool:
        return self._most > 0

    def open(self) -> None:
        """Finds what an earlier process kept; a folder that cannot be read holds nothing."""
        found: list[tuple[int, str, int]] = []
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                status = path.lstat()
                identity = path.name.removesuffix(_SUFFIX)
                if _ID.fullmatch(identity):
                    found.append((status.st_mtime_ns, identity, status.st_size))
                elif path.name.startswith("write-") and self._wall() - status.st_mtime > _ABANDONED_S:
                    files.remove(path)
        for _, identity, size in sorted(found):
            age_s = max(0.0, self._wall() - int(identity[5:13], 16))
            self._add(identity, _Kept(size, self._clock() + self._most_s - age_s))
        self._make_room()

    def put(self, record: Record) -> None:
        """A record of the same id is replaced. Raises InsufficientStorage and Conflict."""
        if not self.on:
            raise Conflict("This server keeps no responses (stored_responses = 0 in its settings); send store=false "
                           "and the whole conversation as input.", param="store")
        data = msgspec.json.encode(record)
        if len(data) > self._most_bytes:
            raise InsufficientStorage(
                f"The response takes {len(data)} bytes, and stored_responses_bytes is {self._most_bytes}; send "
                "store=false.", param="store")
        try:
            files.make_folder(self._folder)
            files.publish_bytes(self._path(record.id), data, self._folder, durable=False)
        except OSError as error:
            if space.is_full(error):
                raise InsufficientStorage(
                    "The server's disk is full, so the response cannot be stored; send store=false, or free space "
                    "with `edged gc`.", param="store") from error
            raise Conflict(f"The response cannot be stored ({error.strerror}); send store=false.",
                           param="store") from error
        before = self._forget(record.id)
        expires_at = before.expires_at if before is not None else self._clock() + self._most_s
        self._add(record.id, _Kept(len(data), expires_at))
        self._make_room()

    def get(self, identity: str, client: str) -> Record:
        """Raises NotFound, the same for one that never was and for one of another client's, and CorruptFile."""
        self.expire()
        if identity not in self._kept:
            raise self._not_here(identity)
        path = self._path(identity)
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except FileNotFoundError:
            self._forget(identity)
            raise self._not_here(identity) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise CorruptFile(
                f"The stored response {identity} is damaged, as a power cut may leave one. Send the conversation as "
                f"input; DELETE /v1/responses/{identity} takes it away.") from error
        if record.client != client or record.id != identity:
            raise self._not_here(identity)
        self._kept.move_to_end(identity)
        with contextlib.suppress(OSError):
            os.utime(path)
        return record

    def delete(self, identity: str, client: str) -> None:
        """Raises NotFound. A damaged one may be deleted by whoever knows its id."""
        with contextlib.suppress(CorruptFile):
            self.get(identity, client)
        self._remove(identity)

    def expire(self) -> None:
        """Takes away what is too old."""
        now = self._clock()
        for identity in [one for one, kept in self._kept.items() if kept.expires_at <= now]:
            self._remove(identity)

    def purge(self) -> int:
        """Takes everything away; how many that were."""
        count = len(self._kept)
        for identity in list(self._kept):
            self._remove(identity)
        return count

    def _path(self, identity: str) -> Path:
        assert _ID.fullmatch(identity)
        return self._folder / f"{identity}{_SUFFIX}"

    def _add(self, identity: str, kept: _Kept) -> None:
        self._kept[identity] = kept
        self._bytes += kept.size

    def _make_room(self) -> None:
        self.expire()
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._remove(next(iter(self._kept)))

    def _remove(self, identity: str) -> None:
        """What the disk does not let go stays, and is found again at the next start."""
        with contextlib.suppress(OSError):
            files.remove(self._path(identity))
        self._forget(identity)

    def _forget(self, identity: str) -> _Kept | None:
        kept = self._kept.pop(identity, None)
        if kept is not None:
            self._bytes -= kept.size
        return kept

    def _not_here(self, identity: str) -> NotFound:
        return NotFound(
            f"There is no stored response {identity[:64]} of yours. Kept are the {self._most} most recently used, of "
            f"at most {space.in_words(self._most_bytes)} and {self._most_s / 86_400:g} days: it was evicted since, "
            "deleted, never stored (store=false, an answer that was broken off), or is another key's.",
            code="response_not_found")


def response_files(settings: Settings) -> ResponseFiles:
    """Those of a home; not opened yet."""
    return ResponseFiles(
        Layout(settings.home).responses, most=settings.stored_responses, most_bytes=settings.stored_responses_bytes,
        most_s=settings.stored_responses_days * 86_400)
