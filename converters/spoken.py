"""What a model's own text falls into, read by the parsers of the worker that will serve it: so an answer means the same
whether transformers or edged computed it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edged.worker.formats.detect import family_of, tags_of
from edged.worker.formats.harmony import HARMONY, Harmony
from edged.worker.formats.hermes import HERMES
from edged.worker.formats.parts import Parser, Plain, joined
from edged.worker.formats.thinking import Thinking


@dataclass(frozen=True, slots=True)
class Spoken:
    """calls: name and arguments (JSON text) of each, in order."""

    content: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]


class Listener:
    """marks: texts that may be control tokens of the model and still have to be in the text that `read` gets."""

    def __init__(self, template: str) -> None:
        self._known = family_of(template)
        self._tags = tags_of(template, self._known)
        tags = (self._tags.opening, self._tags.closing) if self._tags is not None else ()
        self.marks = frozenset((*(self._known or HERMES).marks, *tags))

    def read(self, text: str, *, prompt: str, functions: Collection[str]) -> Spoken:
        """text: a whole answer, without the token that ended it. prompt: what came before it, of which the end tells
        whether the answer begins within a thought. functions: names of those that may be called; none: nothing is
        read as a call."""
        opened = self._tags is not None and prompt.rstrip().endswith(self._tags.opening.rstrip())
        parser = self._parser(frozenset(functions), opened)
        parts = joined(parser.push(text), parser.finish())
        calls: dict[int, tuple[str, str]] = {}
        for piece in parts.calls:
            name, arguments = calls.get(piece.call, (piece.name, ""))
            calls[piece.call] = (name, arguments + piece.arguments)
        return Spoken(parts.content, parts.reasoning, tuple(calls.values()))

    def _parser(self, functions: frozenset[str], opened: bool) -> Parser:
        if self._known is HARMONY:
            return Harmony("reasoning" if opened else "head")
        inner = (self._known or HERMES).parser(functions) if functions else Plain()
        return inner if self._tags is None else Thinking(self._tags, inner, opened=opened)
