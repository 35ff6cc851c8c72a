"""Answers that the operator has captured, to train on: `captured/<model>/<date>-<number>.jsonl` in the home, files
0600 in folders 0700 (PROMISES T19).

One JSON object a line, an `Answer`. Lines are appended and never changed; a file is written by the process that began
it alone, and goes as a whole. The last line of a file may be torn where its writer died; readers leave it out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from edged.errors import NotFound
from edged.settings import Settings
from edged.store import files
from edged.store.damaged import DAMAGED
from edged.store.entries import ModelEntry
from edged.store.paths import Layout, name_of

_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})-(\d{1,9})\.jsonl", re.ASCII)

_NOT_THERE = (FileNotFoundError, NotADirectoryError)


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One whole answer with what was asked. id: of its request; of several choices, with the choice's number behind a
    dot. at: seconds since 1970. messages: as OpenAI writes them, the answer last, its thoughts in `reasoning_content`.
    tools: as OpenAI writes them. completion_tokens: thoughts included. client: the hash of its API key, shortened; None
    where it showed none."""

    id: str
    at: float
    model: str
    version: str
    adapter: str | None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    finish_reason: Literal["stop", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int
    client: str | None


def is_captured(model: str, settings: Settings, entry: ModelEntry | None) -> bool:
    """Whether its answers are kept. entry: what the catalog says of the model, which goes before the settings."""
    if entry is not None and entry.capture is not None:
        return entry.capture
    return model in settings.capture


class Kept(Struct, frozen=True, kw_only=True):
    """What is kept of one model. first_at, last_at: of its oldest and newest answer, seconds since 1970; None where a
    line is damaged."""

    model: str
    answers: int
    files: int
    bytes: int
    first_at: float | None
    last_at: float | None


class _Time(Struct, frozen=True):
    at: float


def answered_at(line: bytes) -> float | None:
    """None of a line that is no answer."""
    try:
        return msgspec.json.decode(line, type=_Time).at
    except DAMAGED:
        return None


def file_name(date: str, number: int) -> str:
    """date: YYYY-MM-DD, UTC."""
    return f"{date}-{number}.jsonl"


def file_number(path: Path) -> tuple[str, int] | None:
    """Date and number; None of another file."""
    found = _FILE.fullmatch(path.name)
    return (found[1], int(found[2])) if found is not None else None


class Captured:
    """What there is, whoever wrote it. Every method may be called in any thread, and raises OSError where the disk
    refuses: what cannot be read is not taken for nothing."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def models(self) -> list[str]:
        """Names of those of which something is kept, sorted."""
        with contextlib.suppress(*_NOT_THERE):
            return sorted(name_of(folder.name) for folder in self._layout.captured.iterdir() if self._paths(folder))
        return []

    def paths(self, model: str | None = None) -> list[Path]:
        """Of one model, or of all; of each model the oldest first."""
        if model is not None:
            return self._paths(self._layout.captured_of(model))
        return [path for name in self.models() for path in self._paths(self._layout.captured_of(name))]

    def lines(self, model: str) -> Iterator[bytes]:
        """Each answer as the JSON line that was kept, its end of line with it, the oldest first. Raises NotFound where
        nothing is kept of the model."""
        paths = self.paths(model)
        if not paths:
            raise self._nothing(model)
        return (line for path in paths for line in whole_lines(path))

    def kept(self) -> list[Kept]:
        return [self._kept(model) for model in self.models()]

    def purge(self, model: str | None = None) -> int:
        """Removes all of one model, or all; how many answers that were. Raises NotFound where nothing is kept of the
        model, OSError where the disk refuses."""
        paths = self.paths(model)
        if model is not None and not paths:
            raise self._nothing(model)
        count = 0
        for path in paths:
            count += sum(1 for _ in whole_lines(path))
            files.remove(path)
        return count

    def _kept(self, model: str) -> Kept:
        count = size_bytes = 0
        first: bytes | None = None
        last: bytes | None = None
        paths = self.paths(model)
        for path in paths:
            for line in whole_lines(path):
                count += 1
                size_bytes += len(line)
                first = line if first is None else first
                last = line
        return Kept(model=model, answers=count, files=len(paths), bytes=size_bytes,
                    first_at=answered_at(first) if first is not None else None,
                    last_at=answered_at(last) if last is not None else None)

    def _nothing(self, model: str) -> NotFound:
        there = self.models()
        return NotFound(
            f"No answers of {model} are captured here. "
            + (f"There are answers of {', '.join(there)}." if there else
               "None are captured before an operator says so: `capture` in the settings, or in models.toml."),
            code="nothing_captured")

    def _paths(self, folder: Path) -> list[Path]:
        found = []
        with contextlib.suppress(*_NOT_THERE):
            found = [(number, path) for path in folder.iterdir() if (number := file_number(path)) is not None]
        return [path for _, path in sorted(found)]


def whole_lines(path: Path) -> Iterator[bytes]:
    """Nothing of a file that is gone meanwhile."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
