"""How much memory one model asks for, is given and holds."""

from __future__ import annotations

from edged.daemon.footprint import Footprints

#: More than there is: the policy gives all that can be had.
EVERYTHING = 1 << 62
#: Growth at which memory is shared anew.
NOTABLE_BYTES = 8 << 20


class Appetite:
    def __init__(self, digest: str, footprints: Footprints) -> None:
        self._digest, self._footprints = digest, footprints
        self._set_aside_bytes = 0
        self._peak_bytes = 0
        self._had_everything = False
        self._wants_everything = False

    def need_bytes(self, estimated_bytes: int) -> int:
        """Measured on an earlier load, else estimated."""
        if self._wants_everything:
            return EVERYTHING
        return self._footprints.get(self._digest) or estimated_bytes

    def give(self, set_aside_bytes: int, *, everything: bool) -> None:
        """A load begins. everything: no eviction could give it more."""
        self._set_aside_bytes, self._peak_bytes, self._had_everything = set_aside_bytes, 0, everything

    def saw(self, resident_bytes: int) -> bool:
        """True where it has grown over all that was known of it, by so much that others may have to make room."""
        known_bytes = self.held_bytes(loaded=True)
        self._peak_bytes = max(self._peak_bytes, resident_bytes)
        return self._peak_bytes - known_bytes >= NOTABLE_BYTES

    def held_bytes(self, *, loaded: bool) -> int:
        """Loading: what was set aside. Then the most it was seen to take, in this life or the one before."""
        if not loaded:
            return self._set_aside_bytes
        return max(self._peak_bytes, self._footprints.get(self._digest) or 0) or self._set_aside_bytes

    def satisfied(self) -> None:
        """It could load."""
        self._wants_everything = False

    def wants_more(self) -> bool:
        """It was refused for want of memory. True where a load with all that can be had is worth trying."""
        self._wants_everything = not self._had_everything
        return self._wants_everything

    def ended(self) -> None:
        """A life that had loaded is over: its peak is what the next one needs."""
        self._footprints.record(self._digest, self._peak_bytes)
