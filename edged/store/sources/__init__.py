"""Where models come from. Each source module has `fetch(source, wanted, receiver, report, …) -> Fetched`: it plans,
checks that the disk has room before the first byte, and hands every file to the receiver."""

from __future__ import annotations

from dataclasses import dataclass

from edged.store.entries import FileEntry, Source
from edged.store.lineage import Training
from edged.types import EngineName


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the reference or the catalog says of the model; None: the files decide. sha256 and size: of the entry
    file."""

    quant: str | None = None
    engine: EngineName | None = None
    precision: str | None = None
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """source: with its revision pinned. file: the engine's entry file, one of `files`. training: what a local folder
    says of it."""

    source: Source
    engine: EngineName
    precision: str
    file: str
    files: tuple[FileEntry, ...]
    training: Training | None = None
