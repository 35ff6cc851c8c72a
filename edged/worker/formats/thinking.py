"""Thoughts between two tags at the beginning of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from edged.worker.formats.parts import Marks, Parser, Parts, joined


@dataclass(frozen=True, slots=True)
class Tags:
    """opening and closing as the model writes them; lead: what follows the one, gap: what follows the other.
    always: the model thinks unless it is made not to."""

    opening: str
    closing: str
    lead: str = ""
    gap: str = ""
    always: bool = False

    @property
    def begun(self) -> str:
        """At the end of a prompt: the model is made to think."""
        return self.opening + self.lead

    @property
    def skipped(self) -> str:
        """At the end of a prompt: the model is made to answer at once."""
        return f"{self.opening}{self.lead}{self.lead}{self.closing}{self.gap}"


class Thinking:
    """The thought, without the white space around it, and then the words, which `inner` parses further.

    A tag that opens anywhere but at the beginning is a word like others. opened: the prompt ends with the opening tag.
    Where the opening tag comes once more, the model repeats what the prompt said, as some do.
    """

    def __init__(self, tags: Tags, inner: Parser, *, opened: bool) -> None:
        self._tags = tags
        self._inner = inner
        self._close = Marks(tags.closing)
        self._state = "opened" if opened else "start"
        self._begun = ""
        self._space = ""
        self._thought_begun = False

    @property
    def thinking(self) -> bool:
        return self._state in ("opened", "thought")

    @property
    def calling(self) -> bool:
        return self._inner.calling

    @property
    def held(self) -> int:
        return len(self._begun) + self._close.held + self._inner.held

    def push(self, text: str) -> Parts:
        parts = Parts()
        for at, character in enumerate(text):
            if self._state == "words":
                return joined(parts, self._inner.push(text[at:]))
            getattr(self, f"_{self._state}")(character, parts)
        return parts

    def finish(self) -> Parts:
        parts = Parts()
        if self._state == "start":
            joined(parts, self._inner.push(self._begun))
        elif self.thinking:
            self._think(self._begun + self._close.flush(), parts)
        self._begun = ""
        return joined(parts, self._inner.finish())

    def _start(self, character: str, parts: Parts) -> None:
        self._begun += character
        begun = self._begun.lstrip()
        if begun == self._tags.opening:
            self._begun = ""
            self._state = "thought"
        elif not self._tags.opening.startswith(begun):
            begun, self._begun = self._begun, ""
            self._state = "words"
            joined(parts, self._inner.push(begun))

    def _opened(self, character: str, parts: Parts) -> None:
        self._begun += character
        begun = self._begun.lstrip()
        if begun == self._tags.opening or not self._tags.opening.startswith(begun):
            characters = "" if begun == self._tags.opening else self._begun
            self._begun = ""
            self._state = "thought"
            joined(parts, self.push(characters))

    def _thought(self, character: str, parts: Parts) -> None:
        text, closed = self._close.push(character)
        self._think(text, parts)
        if closed:
            self._space = ""
            self._state = "gap"

    def _gap(self, character: str, parts: Parts) -> None:
        if not character.isspace():
            self._state = "words"
            joined(parts, self._inner.push(character))

    def _think(self, text: str, parts: Parts) -> None:
        """White space waits until more of the thought comes."""
        self._space += text
        if kept := self._space.rstrip():
            self._space = self._space[len(kept):]
            parts.reasoning += kept if self._thought_begun else kept.lstrip()
            self._thought_begun = True
