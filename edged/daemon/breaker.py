"""When a model whose worker died may be started again: back-off first, then a breaker. Pure; the caller has the clock.

The delay starts at `first_s` and doubles to `most_s`. The breaker opens after `limit` deaths in a row, or `load_limit`
where it died while loading each time: what never served a request will not get better by waiting. A completed request
resets all of it, and so does an operator who asks for the load.
"""

from __future__ import annotations

FIRST_S = 1.0
MOST_S = 30.0
LIMIT = 7
LOAD_LIMIT = 3


class Breaker:
    def __init__(self, *, first_s: float = FIRST_S, most_s: float = MOST_S, limit: int = LIMIT,
                 load_limit: int = LOAD_LIMIT) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._limit, self._load_limit = limit, load_limit
        self.reset()

    def reset(self) -> None:
        self.deaths = 0
        self._load_deaths = 0
        #: Monotonic seconds before which no worker is started.
        self.not_before = 0.0

    def died(self, now: float, *, loading: bool) -> None:
        self.deaths += 1
        self._load_deaths = self._load_deaths + 1 if loading else 0
        self.not_before = now + min(self._most_s, self._first_s * 2 ** (self.deaths - 1))

    @property
    def open(self) -> bool:
        return self.deaths >= self._limit or self._load_deaths >= self._load_limit
