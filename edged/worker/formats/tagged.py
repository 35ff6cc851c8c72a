"""Calls as JSON between marks: one object or a list of them, once or many times, as most families write them."""

from __future__ import annotations

from collections.abc import Callable

from edged.worker.formats.json_calls import JsonCall
from edged.worker.formats.parts import CallMachine, Marks, Parts

#: What may stand between objects of a list and between calls.
_BETWEEN = frozenset(" \t\r\n[],;")


class TaggedCalls(CallMachine):
    """Words, then calls. White space around the marks belongs to them. What looks like a call and is none comes out as
    the words that it is: nothing that a model wrote is lost.

    opening: marks that begin a call or a list of them. closing: marks that end one; the text of a call may hold them.
    bare: an answer that begins with a brace is a call of one of these functions without a mark (Llama 3).
    """

    def __init__(
        self, opening: tuple[str, ...], closing: tuple[str, ...], *, bare: frozenset[str] | None = None
    ) -> None:
        super().__init__()
        self._bare = bare
        self._opening = Marks(*opening)
        self._between = Marks(*opening, *closing)
        self._raw = ""  # since the mark, while no call has come of it
        self._call: JsonCall | None = None
        self._state: Callable[[str, Parts], None] = (
            self._words if bare is None else self._beginning
        )

    @property
    def calling(self) -> bool:
        return self._state in (self._opened, self._object, self._after)

    @property
    def held(self) -> int:
        raw = len(self._call.raw) if self._call is not None and not self._call.named else 0
        return self._opening.held + self._between.held + len(self._raw) + len(self._space) + raw

    def finish(self) -> Parts:
        parts = Parts()
        if self._state == self._words:
            self._say(self._opening.flush(), parts)
        elif self._state == self._after:
            self._not_between(self._between.flush(), parts)
        elif self._state == self._object and self._call is not None:
            self._fail(self._call.finish(parts), parts)
        else:
            self._fail("", parts)
        return self._rest(parts)

    def _beginning(self, character: str, parts: Parts) -> None:
        if character.isspace():
            self._space += character
        elif character == "{":
            self._begin_object(character, parts, self._bare)
        else:
            self._state = self._words
            self._words(character, parts)

    def _words(self, character: str, parts: Parts) -> None:
        text, mark = self._opening.push(character)
        self._say(text, parts)
        if mark:
            self._raw = mark
            self._state = self._opened

    def _opened(self, character: str, parts: Parts) -> None:
        if character == "{":
            self._begin_object(character, parts)
        elif character in _BETWEEN:
            self._raw += character
        else:
            self._fail(character, parts)

    def _begin_object(self, character: str, parts: Parts, names: frozenset[str] | None = None) -> None:
        self._call = JsonCall(self._calls, names)
        self._state = self._object
        self._object(character, parts)

    def _object(self, character: str, parts: Parts) -> None:
        call = self._call
        assert call is not None
        call.push(character, parts)
        if call.named:
            self._raw = self._space = ""
        if call.done:
            if call.named:
                self._call = None
                self._state = self._after
            else:
                self._fail(call.raw, parts)

    def _after(self, character: str, parts: Parts) -> None:
        """Between two calls and after the last."""
        text, mark = self._between.push(character)
        for one in text:
            (self._gap if self._state == self._after else self._state)(one, parts)
        if mark is not None and mark in self._opening:
            self._raw = mark
            self._state = self._opened
        elif mark and self._state != self._after:
            self._say(mark, parts)

    def _gap(self, character: str, parts: Parts) -> None:
        if character == "{":
            self._begin_object(character, parts)
        else:
            self._not_between(character, parts)

    def _not_between(self, text: str, parts: Parts) -> None:
        if any(one not in _BETWEEN for one in text):
            self._state = self._words
            self._say(text, parts)

    def _fail(self, text: str, parts: Parts) -> None:
        """No call came of what began as one."""
        raw, self._raw, self._call = self._raw + text, "", None
        self._state = self._words
        self._say(raw, parts)
