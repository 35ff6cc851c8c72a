"""What is wrong with rows of data, each with its place; all of it is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from edged.errors import ConfigError

#: So many are told; the others are counted.
MOST_TOLD = 20
#: Of rows that may be wrong.
_LEFT_OUT_TOLD = 5


class Place(Struct, frozen=True):
    """Where a row begins. unit: of number, which counts from 1: lines of a text, rows of a table, items of a JSON
    array."""

    file: str
    number: int
    unit: Literal["line", "row", "item"] = "line"

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.unit == "line" else f"{self.file}, {self.unit} {self.number}"


class WrongRow(Exception):
    """A row that is no example; says what would be right."""


@dataclass(slots=True)
class Mistakes:
    """Owned by the one who reads. rows: read so far, right ones and wrong ones. thoughts: of them, right ones whose
    answer comes with thoughts beside it, which no example holds."""

    rows: int = 0
    thoughts: int = 0
    found: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, place: Place, message: str) -> None:
        self.found.append((place, message))

    def left_out(self) -> list[str]:
        """The first ones, where they are not too many."""
        return [f"left out: {place}: {message}" for place, message in self.found[:_LEFT_OUT_TOLD]]

    def require(self, most_share: float) -> None:
        """Raises ConfigError with the first ones where more than this share of the rows are wrong."""
        if not self.found or len(self.found) <= most_share * self.rows:
            return
        files = list(dict.fromkeys(place.file for place, _ in self.found))
        ordered = sorted(self.found, key=lambda each: (files.index(each[0].file), each[0].number))
        told = [f"{place}: {message}" for place, message in ordered[:MOST_TOLD]]
        if len(self.found) > MOST_TOLD:
            told.append(f"and {len(self.found) - MOST_TOLD} more")
        allowed = f"data.max_invalid_share allows {most_share:.3g}" if most_share else \
            "mend them, or set data.max_invalid_share to leave such rows out"
        raise ConfigError("\n  ".join([f"{len(self.found)} of {self.rows} rows are no examples; {allowed}:", *told]))
