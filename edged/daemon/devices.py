"""Which device a version may be loaded on next: what the catalog requires, and what is left of a loss. No I/O.

A device that was lost while it served is not replaced in silence. Without `fall_back` the version comes back on that
device or not at all, whatever else could run it; with it, on the processor. `require` rules over both. It ends when the
version serves there again, or when an operator loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edged.hardware.providers import CPU
from edged.store.entries import ModelEntry

if TYPE_CHECKING:
    from edged.hardware.admit import Serve


class Devices:
    """entry: the catalog's word, which a reload may change."""

    def __init__(self, entry: Callable[[], ModelEntry]) -> None:
        self._entry = entry
        self._placed: Serve | None = None
        self._bound: str | None = None
        #: The provider that was lost and does not serve yet, in words for people.
        self.lost: str | None = None

    @property
    def only(self) -> str | None:
        """The one provider that may serve."""
        return self._entry().require or self._bound

    @property
    def provider(self) -> str | None:
        """Where it was placed last."""
        return self._placed.place.provider if self._placed is not None else None

    @property
    def environment(self) -> str | None:
        """The engine environment that it was placed in last; None for edged's own."""
        return self._placed.place.environment if self._placed is not None else None

    @property
    def reason(self) -> str | None:
        """Why it runs where it was placed."""
        if self._placed is None:
            return None
        if self.lost is not None and self.provider == CPU:
            return f"{self.lost}, and the catalog lets it fall back to the processor"
        return self._placed.reason

    def place(self, serve: Serve) -> None:
        self._placed = serve

    def serves(self) -> None:
        """It can answer where it was placed."""
        if self._bound == self.provider != CPU:
            self._bound = self.lost = None

    def gone(self, lost: str | None) -> bool:
        """Its worker ended though nobody asked. lost: why its device is gone, None where the worker died of something
        that may be the device's doing or not. Returns whether it comes back on the processor."""
        provider, entry = self.provider, self._entry()
        if provider in (None, CPU):
            return False
        falls_back = entry.fall_back and entry.require is None
        if lost is not None:
            self.lost = f"{provider} was lost ({lost})"
            self._bound = CPU if falls_back else provider
            return falls_back
        if not falls_back:
            self._bound = provider
        return False

    def reset(self) -> None:
        """An operator loads it: the choice is free again."""
        self._bound = self.lost = None
