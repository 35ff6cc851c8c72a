"""Calls whose name stands before their arguments: a head, and then one JSON object."""

from __future__ import annotations

import re
from collections.abc import Callable

from edged.worker.formats.parts import CallMachine, Marks, Parts

#: Longer than any name and the marks around it: what has no brace for so long is no head.
_LONGEST_HEAD = 400


class Balanced:
    """Where a JSON object ends, character by character."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def ends(self, character: str) -> bool:
        """True for the brace that closes the first one. The first character opens it."""
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return self._depth <= 0
        return False


class NamedCalls(CallMachine):
    """opening: marks that begin a call. closing: marks and texts that may follow one. head: matches all between the
    opening mark and the brace, its first group that is set is the name; else the text is no call but words."""

    def __init__(self, opening: tuple[str, ...], closing: tuple[str, ...], head: re.Pattern[str]) -> None:
        super().__init__()
        self._opening = Marks(*opening)
        self._between = Marks(*opening, *closing)
        self._head_pattern = head
        self._mark = ""
        self._head = ""
        self._object = Balanced()
        self._state: Callable[[str, Parts], None] = self._words

    @property
    def calling(self) -> bool:
        return self._state != self._words

    @property
    def held(self) -> int:
        return self._opening.held + self._between.held + len(self._mark) + len(self._head) + len(self._space)

    def finish(self) -> Parts:
        parts = Parts()
        if self._state == self._words:
            self._say(self._opening.flush(), parts)
        elif self._state == self._naming:
            self._fail(parts)
        return self._rest(parts)

    def _words(self, character: str, parts: Parts) -> None:
        text, mark = self._opening.push(character)
        self._say(text, parts)
        if mark:
            self._begin(mark)

    def _begin(self, mark: str) -> None:
        self._mark += mark
        self._state = self._naming

    def _naming(self, character: str, parts: Parts) -> None:
        if character != "{":
            self._head += character
            if self._head in self._opening:  # one mark opens the list, another the first call
                self._mark, self._head = self._mark + self._head, ""
            elif len(self._head) > _LONGEST_HEAD:
                self._fail(parts)
            return
        match = self._head_pattern.fullmatch(self._head)
        if match is None:
            self._head += character
            self._fail(parts)
            return
        self._mark = self._head = self._space = ""
        parts.add_call(self._calls.begin(next(name for name in match.groups() if name)))
        self._object = Balanced()
        self._state = self._arguments
        self._arguments(character, parts)

    def _arguments(self, character: str, parts: Parts) -> None:
        parts.add_call(self._calls.more(character))
        if self._object.ends(character):
            self._state = self._after

    def _after(self, character: str, parts: Parts) -> None:
        text, mark = self._between.push(character)
        if text.strip():
            self._state = self._words
            self._say(text, parts)
        if mark is not None and mark in self._opening:
            self._begin(mark)
        elif mark and self._state == self._words:
            self._say(mark, parts)

    def _fail(self, parts: Parts) -> None:
        raw, self._mark, self._head = self._mark + self._head, "", ""
        self._state = self._words
        self._say(raw, parts)
