"""How long one model is to stay loaded: as the catalog says, unless an operator said otherwise."""

from __future__ import annotations

from collections.abc import Callable

from edged.daemon.policy import expires_at
from edged.store.entries import ModelEntry


class Stay:
    """What is said holds until the daemon's end. entry: the catalog's word, which a reload may change.

    The name's pin is of the version that answers to the name: others are `unpin`ned. A `retired` version, which no
    longer does, goes as soon as it has nothing to do; what loads it once more names it."""

    def __init__(self, entry: Callable[[], ModelEntry], server_keep_alive_s: float) -> None:
        self._entry, self._server_keep_alive_s = entry, server_keep_alive_s
        self._pin: bool | None = None
        self._keep_alive_s: float | None = None
        self.retired = False

    @property
    def pinned(self) -> bool:
        return self._entry().pin if self._pin is None else self._pin

    @property
    def keep_alive_s(self) -> float:
        said = (self._keep_alive_s, self._entry().keep_alive_s, self._server_keep_alive_s)
        return next(seconds for seconds in said if seconds is not None)

    @property
    def lasting(self) -> bool:
        """It is to be in memory after it has answered."""
        return not self.retired and (self.pinned or self.keep_alive_s != 0)

    def say(self, *, pin: bool | None = None, keep_alive_s: float | None = None) -> None:
        self.retired = False
        self._pin = self._pin if pin is None else pin
        self._keep_alive_s = self._keep_alive_s if keep_alive_s is None else keep_alive_s

    def unpin(self) -> None:
        self._pin = False

    def succeed(self, other: Stay) -> None:
        """What an operator said of the other version holds for this one; a pin that was taken away does not."""
        self._pin = other._pin or None
        self._keep_alive_s = self._keep_alive_s if other._keep_alive_s is None else other._keep_alive_s
        self.retired, other._pin = False, False

    def expires_at(self, idle_since: float) -> float | None:
        """Monotonic seconds; None: never."""
        return expires_at(idle_since=idle_since, keep_alive_s=0.0 if self.retired else self.keep_alive_s,
                          pinned=self.pinned)
