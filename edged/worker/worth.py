"""Whether to bring KV back is sooner than to compute it again, by what both took here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

#: Where KV comes from that no row has.
Source = Literal["ram", "disk"]

#: Weight of the newest measurement.
NEWEST = 0.3
#: Each time that it does not seem to pay, the rate is believed to be this much better: one bad measurement (a page that
#: was swapped out, a disk that woke up) would else stand for ever, since nothing is measured any more.
HOPE = 1.02


class Worth:
    def __init__(self, compute_tokens_per_s: Callable[[], float]) -> None:
        self._compute_tokens_per_s = compute_tokens_per_s
        self._bytes_per_s: dict[Source, float] = {}

    def pays(self, source: Source, size_bytes: int, tokens: int) -> bool:
        """Bringing so many bytes back, to save the computing of so many tokens. Yes where nothing was measured yet."""
        rate = self._bytes_per_s.get(source)
        return rate is None or size_bytes * self._compute_tokens_per_s() < tokens * rate

    def declined(self, source: Source) -> None:
        self._bytes_per_s[source] *= HOPE

    def moved(self, source: Source, size_bytes: int, seconds: float) -> None:
        """So long it took to bring them back."""
        if size_bytes and seconds > 0:
            rate = size_bytes / seconds
            self._bytes_per_s[source] = rate + (1 - NEWEST) * (self._bytes_per_s.get(source, rate) - rate)
