"""Every state that a crash may leave a file system in, from the trace of operations on it.

A kill cannot show a missing fsync, since the kernel still has the data. The model here is the weakest that POSIX
allows (as in ALICE, Pillai et al., OSDI 2014): until a file is synced, its data on disk may be what it was at the last
sync, the new data, a piece of it, or zeros of the right length; until a folder is synced, each name in it may mean
what it meant at the last sync or after any later operation, whatever happened to other names.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edged.store.files import Operation


@dataclass
class File:
    durable: bytes = b""
    current: bytes = b""

    def possible(self) -> list[bytes]:
        if self.durable == self.current:
            return [self.current]
        ways = [self.durable, self.current, bytes(len(self.current)), self.current[: len(self.current) // 2]]
        return list(dict.fromkeys(ways))


@dataclass
class Folder:
    """names: what each means now. unsynced: all that a name has meant since the last sync, that included."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    unsynced: dict[str, list[File | Folder | None]] = field(default_factory=dict)

    def set(self, name: str, meaning: File | Folder | None) -> None:
        self.unsynced.setdefault(name, [self.names.get(name)]).append(meaning)
        if meaning is None:
            self.names.pop(name, None)
        else:
            self.names[name] = meaning

    def possible(self) -> dict[str, list[File | Folder | None]]:
        return {name: list({id(each): each for each in [self.names.get(name), *self.unsynced.get(name, [])]}.values())
                for name in {*self.names, *self.unsynced}}


class Disk:
    """Starts as what is at `root` now, all of it durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.top = self._read(root)

    def apply(self, operation: Operation) -> None:
        if operation.kind == "sync_folder":
            self._folder(operation.path).unsynced.clear()
            return
        folder, name = self._find(operation.path)
        match operation.kind:
            case "folder":
                folder.set(name, Folder())
            case "create":
                if name not in folder.names:
                    folder.set(name, File())
            case "write":
                file = self._file(operation.path)
                assert operation.data is not None
                file.current = file.current[: operation.offset] + operation.data
            case "truncate":
                file = self._file(operation.path)
                file.current = file.current[: operation.offset]
            case "sync":
                file = self._file(operation.path)
                file.durable = file.current
            case "rename":
                assert operation.to is not None
                target, new_name = self._find(operation.to)
                target.set(new_name, folder.names[name])
                folder.set(name, None)
            case "link":
                assert operation.to is not None
                target, new_name = self._find(operation.to)
                target.set(new_name, folder.names[name])
            case "remove":
                if name in folder.names:
                    folder.set(name, None)

    def states(self, most: int, seeded: random.Random) -> Iterator[dict[str, bytes | None]]:
        """What a crash now may leave: path → bytes, None for a folder. All of them, or `most` taken by chance."""
        choices = self._choices(self.top, "", [])
        total = math.prod(len(ways) for _, ways in choices)
        if total <= most:
            picks: Iterator[tuple[object, ...]] = itertools.product(*(ways for _, ways in choices))
        else:
            picks = (tuple(seeded.choice(ways) for _, ways in choices) for _ in range(most))
        keys = [key for key, _ in choices]
        for pick in picks:
            state: dict[str, bytes | None] = {}
            self._write(self.top, "", dict(zip(keys, pick, strict=True)), state)
            yield state

    def _choices(self, folder: Folder, at: str, found: list[tuple[object, list[object]]]) -> list[
            tuple[object, list[object]]]:
        """(key, ways) for each name that may mean several things, and each file that may hold several."""
        for name, ways in sorted(folder.possible().items()):
            if len(ways) > 1:
                found.append(((at, name), list(ways)))
            for each in ways:
                if isinstance(each, Folder):
                    self._choices(each, f"{at}/{name}", found)
                elif each is not None and len(each.possible()) > 1 and all(key != id(each) for key, _ in found):
                    found.append((id(each), list(each.possible())))
        return found

    def _write(self, folder: Folder, at: str, pick: dict[object, object], state: dict[str, bytes | None]) -> None:
        for name, ways in folder.possible().items():
            meaning = pick.get((at, name), ways[0])
            path = f"{at}/{name}"
            if isinstance(meaning, Folder):
                state[path.lstrip("/")] = None
                self._write(meaning, path, pick, state)
            elif isinstance(meaning, File):
                data = pick.get(id(meaning), meaning.current)
                assert isinstance(data, bytes)
                state[path.lstrip("/")] = data

    def _read(self, path: Path) -> Folder:
        folder = Folder()
        for below in path.iterdir():
            folder.names[below.name] = (
                self._read(below) if below.is_dir() else File(below.read_bytes(), below.read_bytes()))
        return folder

    def _folder(self, path: Path) -> Folder:
        folder = self.top
        for name in path.relative_to(self._root).parts:
            below = folder.names[name]
            assert isinstance(below, Folder)
            folder = below
        return folder

    def _find(self, path: Path) -> tuple[Folder, str]:
        return self._folder(path.parent), path.name

    def _file(self, path: Path) -> File:
        folder, name = self._find(path)
        file = folder.names[name]
        assert isinstance(file, File)
        return file


def put(state: dict[str, bytes | None], root: Path) -> None:
    """Make the state real in an empty folder."""
    for path, data in sorted(state.items()):
        target = root / path
        if data is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
