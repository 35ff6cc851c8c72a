"""Which requests were running when a worker died: one that was running in two deaths is refused.

Innocent requests that ran beside the guilty one are cleared by completing once, or by time. Pure; bounded.
"""

from __future__ import annotations

from collections import OrderedDict

DEATHS = 2
REMEMBER_S = 600.0
MOST = 512

#: (model's digest, content of the request)
Identity = tuple[str, bytes]


class Suspects:
    def __init__(self, *, deaths: int = DEATHS, remember_s: float = REMEMBER_S, most: int = MOST) -> None:
        self._deaths, self._remember_s, self._most = deaths, remember_s, most
        self._seen: OrderedDict[Identity, tuple[int, float]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._seen)

    def was_running(self, identity: Identity, now: float) -> None:
        deaths, _ = self._seen.pop(identity, (0, now))
        self._seen[identity] = (deaths + 1, now)
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def completed(self, identity: Identity) -> None:
        self._seen.pop(identity, None)

    def refuses(self, identity: Identity, now: float) -> bool:
        deaths, last = self._seen.get(identity, (0, now))
        if now - last > self._remember_s:
            del self._seen[identity]
            return False
        return deaths >= self._deaths
