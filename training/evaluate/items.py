"""One test item as one subject answered it, in the files that an evaluation keeps of it.

    said.jsonl      what was said, appended as it comes
    losses.jsonl    the likelihood of the expected answer
    grades.jsonl    what the judge gave
    items.jsonl     all of it together, with the scores, written at the end

The first three are appended to line by line, so that a run that was killed goes on; half a line at the end is dropped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from edged.errors import CorruptFile
from training.examples import Message

Line = TypeVar("Line", bound="Of")


class Of(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """id: of the example."""

    id: str


class Said(Of, frozen=True, kw_only=True, omit_defaults=True):
    """said: None where the subject refused the prompt; error: why. seconds: of a batch, its share. since_s: of a served
    model, which is asked for several at once, from the answer that came before this one, or from the beginning: these
    add up to what all answers took."""

    said: Message | None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    since_s: float | None = None
    error: str | None = None


class Loss(Of, frozen=True, kw_only=True, omit_defaults=True):
    """nats: the sum of -log p over the `tokens` of the expected answer and its end; None where the subject cannot tell,
    and why."""

    nats: float | None
    tokens: int = 0
    error: str | None = None


class Grade(Of, frozen=True, kw_only=True, omit_defaults=True):
    """grade: 1 to 5, None where the judge gave none; why: in its words, or what went wrong."""

    grade: int | None
    why: str = ""


class Item(Of, frozen=True, kw_only=True, omit_defaults=True):
    """scores: by metric, of this item alone, on the metric's scale."""

    stratum: str | None = None
    expected: Message
    said: Message | None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    error: str | None = None
    nats: float | None = None
    nats_tokens: int = 0
    nats_error: str | None = None
    grade: int | None = None
    grade_why: str = ""
    scores: dict[str, float] = {}


class Kept(Generic[Line]):
    """A file of lines, one for each example, which grows. One process appends."""

    def __init__(self, path: Path, kind: type[Line]) -> None:
        """Raises CorruptFile for a line that is none, other than an unfinished last one, which is cut off."""
        self._path = path
        self._kind = kind
        self.lines: dict[str, Line] = {line.id: line for line in _whole_lines(path, kind)}

    @contextlib.contextmanager
    def appending(self) -> Iterator[_Append[Line]]:
        with self._path.open("ab") as file:
            yield _Append(file, self.lines)


class _Append(Generic[Line]):
    def __init__(self, file: Any, lines: dict[str, Line]) -> None:
        self._file = file
        self._lines = lines

    def __call__(self, line: Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        self._lines[line.id] = line


def _whole_lines(path: Path, kind: type[Line]) -> list[Line]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    try:
        return [msgspec.json.decode(line, type=kind) for line in data[:whole].splitlines()]
    except msgspec.MsgspecError as error:
        raise CorruptFile(f"{path} holds a line that is none ({error}); remove the file and run the stage again") \
            from error
