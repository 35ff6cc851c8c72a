"""One conversion's folder, `jobs/<id>/`: what was asked, what each stage has made, and which stages have ended.

In the folder of a stage, `work` is for what it needs meanwhile, `out` for what it makes; `done.json` is written last,
by rename, and is the only thing that says it has ended. A folder without it is what a killed one left, and goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from converters.child import Ended
from converters.recipe import Recipe
from edged.store import Store, files
from edged.store.lineage import ConversionSpec, Stage
from edged.store.sources.transfer import HubSettings

DONE_FILE = "done.json"

Value = TypeVar("Value")


class _Marker(Struct, frozen=True):
    """value: what the stage returned."""

    seconds: float
    peak_bytes: int
    value: Raw


@dataclass(frozen=True, slots=True)
class Work:
    """What every stage is given. Nothing in it changes: the state is on the disk."""

    folder: Path
    spec: ConversionSpec
    recipe: Recipe
    store: Store
    hub: HubSettings

    def out(self, stage: str) -> Path:
        """What the stage has made, or makes: it is there whole or not at all."""
        return self.folder / stage / "out"

    def scratch(self, stage: str) -> Path:
        return self.folder / stage / "work"

    def is_done(self, stage: str) -> bool:
        return self._marker(stage).exists()

    def value(self, stage: str, kind: type[Value]) -> Value:
        """What a stage that has ended returned."""
        return msgspec.json.decode(self._read(stage).value, type=kind)

    def record(self, stage: str) -> Stage:
        marker = self._read(stage)
        return Stage(name=stage, seconds=round(marker.seconds, 3), peak_bytes=marker.peak_bytes)

    def begin(self, stage: str) -> None:
        """Its folder, with nothing of an earlier attempt."""
        self.forget(stage)
        files.make_folder(self.folder / stage)
        files.make_folder(self.scratch(stage))

    def mark(self, stage: str, ended: Ended) -> None:
        """It has ended. What it has made is on the disk before that is said."""
        self._remove(self.scratch(stage))
        _sync_tree(self.folder / stage)
        data = msgspec.json.encode(_Marker(ended.seconds, ended.peak_bytes, Raw(ended.value)))
        files.publish_bytes(self._marker(stage), data, self.folder / stage)

    def free(self, stage: str) -> None:
        """No later stage reads what it has made; that it has ended stays known."""
        self._remove(self.out(stage))

    def forget(self, stage: str) -> None:
        """As if it had never begun. The marker goes first: it never says that something is there which is not."""
        if (folder := self.folder / stage).exists():
            files.remove(self._marker(stage))
            files.sync_folder(folder)
            files.remove_tree(folder)

    def _marker(self, stage: str) -> Path:
        return self.folder / stage / DONE_FILE

    def _read(self, stage: str) -> _Marker:
        return msgspec.json.decode(self._marker(stage).read_bytes(), type=_Marker)

    @staticmethod
    def _remove(folder: Path) -> None:
        if folder.exists():
            files.remove_tree(folder)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            files.sync_folder(path)
        else:
            files.sync_file(path)
    files.sync_folder(folder)
