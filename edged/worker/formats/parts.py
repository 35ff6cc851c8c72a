"""What an answer's text falls into: thoughts, words for the user, calls of functions.

Parsers are machines over characters: each character is one transition, and what comes out is appended to what came out
before. So no way of cutting a text into pieces can change what it falls into.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edged.types import CallPiece


@dataclass(slots=True)
class Parts:
    """In the order in which they are told."""

    reasoning: str = ""
    content: str = ""
    calls: list[CallPiece] = field(default_factory=list)

    def add_call(self, piece: CallPiece) -> None:
        """Pieces of arguments that follow each other are one."""
        if self.calls and not piece.id and self.calls[-1].call == piece.call:
            last = self.calls[-1]
            self.calls[-1] = CallPiece(last.call, last.arguments + piece.arguments, last.id, last.name)
        else:
            self.calls.append(piece)


def joined(parts: Parts, more: Parts) -> Parts:
    """`parts`, with what came after it."""
    parts.reasoning += more.reasoning
    parts.content += more.content
    for piece in more.calls:
        parts.add_call(piece)
    return parts


class Parser(Protocol):
    """One for each choice.

    thinking: what comes next is, as far as is known, a thought. calling: a call has begun. held: how many of the
    characters pushed last are not decided yet: they may be the beginning of a mark.
    """

    @property
    def thinking(self) -> bool: ...

    @property
    def calling(self) -> bool: ...

    @property
    def held(self) -> int: ...

    def push(self, text: str) -> Parts: ...

    def finish(self) -> Parts:
        """The answer is over, wherever it was cut: what was held back comes out. Never raises."""
        ...


class Plain:
    """For models and requests without thoughts and tools: every character is for the user."""

    thinking = False
    calling = False
    held = 0

    def push(self, text: str) -> Parts:
        return Parts(content=text)

    def finish(self) -> Parts:
        return Parts()


class Marks:
    """Finds marks in a text that comes character by character. The mark that is complete first is found, of several
    that end at one character the longest. A mark of one control token comes as its text, like any other."""

    def __init__(self, *marks: str) -> None:
        assert all(marks)
        self._marks = sorted(marks, key=len, reverse=True)
        self._firsts = frozenset(mark[0] for mark in marks)
        self._held = ""

    @property
    def held(self) -> int:
        return len(self._held)

    def __contains__(self, mark: str | None) -> bool:
        return mark in self._marks

    def push(self, character: str) -> tuple[str, str | None]:
        """Text that belongs to no mark, and then the mark that is complete."""
        if not self._held and character not in self._firsts:
            return character, None
        held = self._held + character
        for mark in self._marks:
            if held.endswith(mark):
                self._held = ""
                return held[: len(held) - len(mark)], mark
        for start in range(len(held)):
            if any(mark.startswith(held[start:]) for mark in self._marks):
                self._held = held[start:]
                return held[:start], None
        self._held = ""
        return held, None

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


class Calls:
    """Numbers the calls of one answer and gives each an id."""

    def __init__(self) -> None:
        self._count = 0

    def begin(self, name: str) -> CallPiece:
        self._count += 1
        return CallPiece(self._count - 1, "", f"call_{secrets.token_hex(12)}", name)

    def more(self, arguments: str) -> CallPiece:
        """Of the call begun last."""
        return CallPiece(self._count - 1, arguments)

    @property
    def any(self) -> bool:
        return self._count > 0


class CallMachine:
    """What parsers of words and calls share. `_state` takes the next character; white space between words and a call
    belongs to the call, and to the words where none follows."""

    thinking = False
    _state: Callable[[str, Parts], None]

    def __init__(self) -> None:
        self._calls = Calls()
        self._space = ""

    def push(self, text: str) -> Parts:
        parts = Parts()
        for character in text:
            self._state(character, parts)
        return parts

    def _say(self, text: str, parts: Parts) -> None:
        """White space waits, to be dropped where a call follows it."""
        self._space += text
        if kept := self._space.rstrip():
            parts.content += kept
            self._space = self._space[len(kept):]

    def _rest(self, parts: Parts) -> Parts:
        """At the end of the answer."""
        if not self._calls.any:
            parts.content += self._space
        self._space = ""
        return parts
