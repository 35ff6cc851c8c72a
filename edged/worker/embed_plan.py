"""Which inputs are computed together: fair between clients, little padding, never more than a run may hold. Pure.

Every run is led by the client whose turn it is; inputs of others join where that costs them no padding to speak of.
Within a client requests go in order, and within a request its longest inputs first, so that neighbours are alike.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from edged.engines.base import EmbedderCapabilities, Passage
from edged.worker.embed_prepare import PreparedEmbed

#: An input joins a padded run of inputs that are at most so many times as long as it, and as short.
MOST_PADDING = 2
#: Inputs up to this length are all alike.
SHORT_TOKENS = 16


@dataclass(slots=True, eq=False)
class Waiting:
    """A request and what is left of it. order: numbers of its inputs, the longest last; the next one is taken from the
    end."""

    prepared: PreparedEmbed
    arrived_s: float
    order: list[int] = field(init=False)
    started: bool = False
    paused: bool = False

    def __post_init__(self) -> None:
        passages = self.prepared.passages
        self.order = sorted(range(len(passages)), key=lambda index: len(passages[index].tokens))

    @property
    def id(self) -> str:
        return self.prepared.request.id

    def next_length(self) -> int:
        return len(self.prepared.passages[self.order[-1]].tokens)


@dataclass(frozen=True, slots=True)
class Item:
    waiting: Waiting
    index: int

    @property
    def passage(self) -> Passage:
        return self.waiting.prepared.passages[self.index]


class Plan:
    """Owner of all that waits, by client."""

    def __init__(self, caps: EmbedderCapabilities) -> None:
        self._caps = caps
        self._clients: OrderedDict[str, list[Waiting]] = OrderedDict()

    def add(self, waiting: Waiting) -> None:
        self._clients.setdefault(waiting.prepared.request.client, []).append(waiting)

    def remove(self, id: str) -> None:
        for client, requests in self._clients.items():
            left = [one for one in requests if one.id != id]
            if len(left) < len(requests):
                self._clients[client] = left
                break
        self._forget_empty()

    def pause(self, id: str, paused: bool) -> None:
        for one in self.requests():
            if one.id == id:
                one.paused = paused

    def requests(self) -> Iterator[Waiting]:
        for requests in self._clients.values():
            yield from requests

    @property
    def runnable(self) -> bool:
        return any(map(_can_run, self.requests()))

    def next_run(self, budget_tokens: int) -> list[Item]:
        """Takes the inputs of the next run; [] where nothing can run. budget_tokens: what a run should take; a single
        input may be longer. Its leader goes to the end of the queue of clients."""
        turns = [client for client, requests in self._clients.items() if any(map(_can_run, requests))]
        if not turns:
            return []
        run = _Run(self._caps, min(budget_tokens, self._caps.batch_tokens))
        queues = [[one for one in self._clients[client] if _can_run(one)] for client in turns]
        # One input of each client in turn, the leader's first, until nobody has one that joins.
        while joined := [queue for queue in queues if run.takes_one_of(queue)]:
            queues = joined
        self._clients.move_to_end(turns[0])
        self._forget_empty()
        return run.items

    def _forget_empty(self) -> None:
        for client in [client for client, requests in self._clients.items() if not any(
                one.order for one in requests)]:
            del self._clients[client]


def _can_run(waiting: Waiting) -> bool:
    return bool(waiting.order) and not waiting.paused


class _Run:
    def __init__(self, caps: EmbedderCapabilities, budget_tokens: int) -> None:
        self.items: list[Item] = []
        self._caps = caps
        self._budget_tokens = budget_tokens
        self._shortest = self._longest = self._tokens = 0

    def takes_one_of(self, queue: list[Waiting]) -> bool:
        """The next input of the first request that has one to join."""
        for waiting in queue:
            if waiting.order and self._fits(length := waiting.next_length()):
                self.items.append(Item(waiting, waiting.order.pop()))
                self._shortest = min(self._shortest or length, length)
                self._longest = max(self._longest, length)
                self._tokens += length
                return True
        return False

    def _fits(self, length: int) -> bool:
        count = len(self.items) + 1
        if count == 1:
            return True
        if count > self._caps.batch_inputs:
            return False
        if not self._caps.padded:
            return self._tokens + length <= self._budget_tokens
        longest, shortest = max(self._longest, length), min(self._shortest, length)
        alike = longest <= SHORT_TOKENS or longest <= MOST_PADDING * shortest
        return alike and longest * count <= self._budget_tokens
