"""What was in memory before a restart: the file that says so, and which of it a start loads again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from edged.store import files
from edged.store.damaged import DAMAGED

#: Models that one start brings back.
MOST = 16
MOST_UNUSED = 3


class Kept(Struct, frozen=True):
    """A model that was in memory: its name, or name@version where it did not answer to its name. trying: it was about
    to be loaded again. unused: starts in a row that loaded it though nobody then asked for it."""

    model: str
    trying: bool = False
    unused: int = 0

    @property
    def name(self) -> str:
        """Without the version. A name may hold an @ itself; then this is no name, which costs its place in the order.
        """
        return self.model.rpartition("@")[0] or self.model


class Present(Struct, frozen=True):
    """One that is in memory now, named as in Kept. asked: somebody wanted it since the daemon started."""

    model: str
    asked: bool


class Due(Struct, frozen=True):
    """again: to be loaded, in this order. left_out: with the reason."""

    again: list[Kept]
    left_out: list[tuple[Kept, str]]


def due(kept: Iterable[Kept], rate: Callable[[str], float]) -> Due:
    """The most used first. rate: uses a second that are expected of a name."""
    again: list[Kept] = []
    left_out: list[tuple[Kept, str]] = []
    for one in kept:
        if one.trying:
            left_out.append((one, "the start before did not come to its end with it"))
        elif one.unused >= MOST_UNUSED:
            left_out.append((one, f"{one.unused} starts in a row loaded it, and nobody asked for it"))
        else:
            again.append(one)
    again.sort(key=lambda one: -rate(one.name))
    return Due(again[:MOST], left_out)


def to_keep(present: Iterable[Present], waiting: Sequence[Kept], back: Iterable[Kept]) -> list[Kept]:
    """What the file is to say. waiting: not yet loaded again, one of them perhaps marked. back: those that came back
    in this life of the daemon, as they were then."""
    unused = {one.model: one.unused for one in back}
    now = [Kept(one.model, unused=0 if one.asked else unused.get(one.model, 0)) for one in present]
    there = {one.model for one in now}
    return sorted([*now, *(one for one in waiting if one.model not in there)], key=lambda one: one.model)[:MOST]


class _File(Struct):
    models: list[Kept]


class LoadedFile:
    """Written whole, by rename. Losing it costs the first client of each model a load."""

    def __init__(self, path: Path, tmp: Path) -> None:
        """tmp: folder on the same file system."""
        self._path, self._tmp = path, tmp

    def read(self) -> list[Kept]:
        """Nothing where it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File).models
        except (OSError, *DAMAGED):
            return []

    def write(self, kept: list[Kept], *, durable: bool) -> None:
        """durable: it outlives a power cut from now on. Raises OSError."""
        files.publish_bytes(self._path, msgspec.json.encode(_File(kept)), self._tmp, durable=durable)

    def remove(self) -> None:
        """Raises OSError."""
        files.remove(self._path)
