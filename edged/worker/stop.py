"""Stop strings, matched across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from edged.errors import InvalidRequest


class StopMatcher:
    """Text goes in as it comes, text that may be shown comes out: all but what can still become a stop string.

    The stop string that is complete first wins, as the text ends there; of several complete at the same character, the
    longest, so that no part of one is shown. This depends on the characters only, not on how they were cut. Nothing is
    shown after a match. Cost: a few steps for each character and stop string (Knuth, Morris and Pratt 1977).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InvalidRequest("A stop string is empty; leave it out.", param="stop")
        self._progress = [_Progress(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._first = frozenset(stop[0] for stop in stops)
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns the text to show and the stop string that matched, if one has (also from then on)."""
        if self._matched is not None:
            return "", self._matched
        if not self._held and self._first.isdisjoint(text):
            return text, None
        pending = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete = [progress.stop for progress in self._progress if progress.advance(character)]
            if complete:
                self._held = ""
                self._matched = complete[0]
                return pending[: end - len(self._matched)], self._matched
        held = max(progress.length for progress in self._progress)
        self._held = pending[len(pending) - held :]
        return pending[: len(pending) - held], None

    @property
    def held(self) -> int:
        """Characters held back."""
        return len(self._held)

    def flush(self) -> str:
        """The text held back, where a text ended without a stop string; what comes next begins another."""
        held, self._held = self._held, ""
        for progress in self._progress:
            progress.length = 0
        return held


class _Progress:
    """How much of one stop string the text ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        # _shorter[n]: the longest prefix of `stop` shorter than n that its first n characters end with.
        self._shorter = [0, 0]
        length = 0
        for character in stop[1:]:
            while length and character != stop[length]:
                length = self._shorter[length]
            length += character == stop[length]
            self._shorter.append(length)

    def advance(self, character: str) -> bool:
        """True where `character` completes the stop string."""
        while self.length and character != self.stop[self.length]:
            self.length = self._shorter[self.length]
        self.length += character == self.stop[self.length]
        return self.length == len(self.stop)
