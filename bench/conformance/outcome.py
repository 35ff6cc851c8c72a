"""Checks, and what comes of them.

A check asks one thing of one server and returns when it was done. It tells the other outcomes by raising: `Silent`
where the server answered as if all were well and did not do it; `Refused`, `Absent` and `Broken` come from the server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.conformance.server import Server


class Verdict(StrEnum):
    """REFUSED: a 4xx that names the field or says what is wrong. BROKEN: a 5xx, no answer, or a 4xx that does not tell
    what it is about. ABSENT: no such route. SKIPPED: the server was not given what the check needs."""

    WORKS = "works"
    REFUSED = "refused honestly"
    SILENT = "silently wrong"
    BROKEN = "fails"
    ABSENT = "absent"
    SKIPPED = "not asked"


class Outcome(Exception):
    """note: one short line of what was seen."""

    verdict: Verdict

    def __init__(self, note: str = "") -> None:
        super().__init__(note)
        self.note = note


class Silent(Outcome):
    verdict = Verdict.SILENT


class Refused(Outcome):
    verdict = Verdict.REFUSED


class Broken(Outcome):
    verdict = Verdict.BROKEN


class Absent(Outcome):
    verdict = Verdict.ABSENT


class Skipped(Outcome):
    verdict = Verdict.SKIPPED


def expect(true: object, otherwise: str) -> None:
    """Raises Silent: the server said 200 and this is not so."""
    if not true:
        raise Silent(otherwise)


def demand(true: object, otherwise: str) -> None:
    """Raises Broken: it was refused, and not in the way it should be."""
    if not true:
        raise Broken(otherwise)


@dataclass(frozen=True)
class Check:
    """own: no part of the API that the endpoint is named after, but edged's own or another server's extension."""

    area: str
    name: str
    own: bool
    run: Callable[[Server], str | None]


@dataclass(frozen=True)
class Row:
    area: str
    name: str
    own: bool
    verdict: Verdict
    note: str


CHECKS: list[Check] = []


def check(area: str, name: str, *, own: bool = False) -> Callable[[Callable[[Server], str | None]], Any]:
    """Registers a check under its row's name; it may return a note."""

    def register(run: Callable[[Server], str | None]) -> Callable[[Server], str | None]:
        CHECKS.append(Check(area, name, own, run))
        return run

    return register


def outcome(one: Check, server: Server) -> Row:
    """Runs it. What a check does not expect of an answer's shape is the server's fault, and told as such."""
    try:
        verdict, note = Verdict.WORKS, one.run(server) or ""
    except Outcome as seen:
        verdict, note = seen.verdict, seen.note
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        verdict, note = Verdict.BROKEN, f"an answer of another shape: {type(error).__name__} {error}"
    return Row(one.area, one.name, one.own, verdict, " ".join(note.split())[:160])
