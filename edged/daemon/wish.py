"""That a model be loaded though nobody waits for it: it is pinned, about to answer to its name, or was in memory before
a restart of the daemon and comes back."""

from __future__ import annotations

from collections.abc import Callable

from edged.daemon.status import ReloadOutcome

Told = Callable[[ReloadOutcome], None]


class Wish:
    """ticket: its place among all that wait; None without a wish."""

    def __init__(self) -> None:
        self.ticket: int | None = None
        self._told: Told | None = None

    @property
    def comes_back(self) -> bool:
        return self._told is not None

    def make(self, ticket: int) -> None:
        self.ticket = ticket

    def come_back(self, told: Told) -> None:
        """What is wished next is a return; told: once, what becomes of it."""
        self._told = told

    def drop(self) -> None:
        """Whatever was wished is not wished any more."""
        self.ended("gave_way")
        self.ticket = None

    def loaded(self) -> bool:
        """It is granted; True where the model came back."""
        came_back = self.comes_back
        self.ended("ready")
        self.ticket = None
        return came_back

    def ended(self, outcome: ReloadOutcome) -> None:
        """A return is over, and not tried again; any other wish stays."""
        if (told := self._told) is not None:
            self._told = self.ticket = None
            told(outcome)
