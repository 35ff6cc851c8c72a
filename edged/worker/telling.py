"""From the tokens of one choice to what is told of it: text, thoughts, calls; and where it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edged.engines.base import Vocab
from edged.worker.detokenize import Detokenizer
from edged.worker.formats.parts import Parser, Parts, Plain, joined
from edged.worker.stop import StopMatcher


@dataclass(frozen=True, slots=True)
class Speech:
    """How the text of an answer is to be read. parser: makes one for a choice. marks: texts of the control tokens that
    it reads, which have no text else."""

    parser: Callable[[], Parser] = Plain
    marks: Mapping[int, str] = field(default_factory=dict)


#: Every character is for the user.
PLAIN = Speech()


class Telling:
    """Text is told once it is whole characters and cannot be the beginning of a mark or of a stop string.

    Stop strings are looked for in the text for the user only: a thought or a call that holds one goes on, and none
    reaches over them. first: the first token begins a text.
    """

    def __init__(self, vocab: Vocab, speech: Speech, stops: Iterable[str], *, first: bool) -> None:
        self._text = Detokenizer(vocab, first=first)
        self._marks = speech.marks
        self._parser = speech.parser()
        self._stop = StopMatcher(tuple(stops))
        self._unsettled = 0
        self.produced_chars = 0
        self.called = False

    @property
    def settled_chars(self) -> int:
        """How many of the characters produced are told, or will never be."""
        return self.produced_chars - self._unsettled

    @property
    def thinking(self) -> bool:
        return self._parser.thinking

    def echo(self, tokens: Iterable[int]) -> str:
        """A prompt that is told as it is."""
        return "".join(map(self._text.push, tokens))

    def push(self, token: int) -> tuple[Parts, str | None]:
        """Returns what can be told now, and the stop string that ended the answer, if one has."""
        text = self._text.push(token) + self._marks.get(token, "")
        self.produced_chars += len(text)
        return self._stopped(self._parser.push(text))

    def finish(self) -> tuple[Parts, str | None]:
        """The answer is over: all that was held back, unless a stop string is in it."""
        text = self._text.flush()
        self.produced_chars += len(text)
        parts, matched = self._stopped(self._parser.push(text))
        if matched is None:
            rest, matched = self._stopped(self._parser.finish())
            joined(parts, rest)
        if matched is None:
            parts.content += self._stop.flush()
            self._unsettled = 0
        return parts, matched

    def _stopped(self, parts: Parts) -> tuple[Parts, str | None]:
        pending = self._stop.held + len(parts.content)
        parts.content, matched = self._stop.push(parts.content)
        if matched is not None:
            parts.calls = []
            self._unsettled = self._parser.held + pending - len(parts.content)
            return parts, matched
        if parts.calls:
            parts.content += self._stop.flush()
            self.called = True
        self._unsettled = self._parser.held + self._stop.held
        return parts, None
