"""The requests that one model has accepted: waiting in the daemon, or active in its worker; each in one of the two
until it ends, and it ends once."""

from __future__ import annotations

import bisect

from edged.daemon.generation import Generation, Phase
from edged.errors import EdgedError

#: A request that was on its way to its start in so many deaths may be what kills (a tokenizer can crash).
MOST_MOVES = 2


class Requests:
    def __init__(self) -> None:
        #: By ticket, oldest first.
        self.waiting: list[Generation] = []
        self.active: dict[str, Generation] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.active)

    def oldest_waiting(self) -> int | None:
        return self.waiting[0].ticket if self.waiting else None

    def running(self) -> int:
        """How many the worker has admitted."""
        return sum(generation.phase is Phase.STARTED for generation in self.active.values())

    def add(self, generation: Generation) -> None:
        bisect.insort(self.waiting, generation, key=lambda one: one.ticket)

    def activate(self, *, before: int | None = None) -> list[Generation]:
        """Those that wait (with tickets under `before`) become active; the caller sends them to the worker."""
        due = [one for one in self.waiting if before is None or one.ticket < before]
        self.waiting = self.waiting[len(due):]
        self.active.update((generation.id, generation) for generation in due)
        return due

    def release(self) -> list[Generation]:
        """Those that wait and that another version may answer are no longer here."""
        released = [one for one in self.waiting if one.movable]
        self.waiting = [one for one in self.waiting if not one.movable]
        return released

    def drop(self, generation: Generation) -> bool:
        """Its client is gone. True if a worker has it."""
        if self.active.get(generation.id) is generation:
            del self.active[generation.id]
            return True
        if generation in self.waiting:
            self.waiting.remove(generation)
        return False

    def end(self, generation: Generation, error: EdgedError | None = None) -> None:
        """An active one has its last event."""
        del self.active[generation.id]
        generation.end(error)

    def end_waiting(self, error: EdgedError) -> None:
        waiting, self.waiting = self.waiting, []
        for generation in waiting:
            generation.end(error)

    def end_active(self, error: EdgedError) -> None:
        active, self.active = self.active, {}
        for generation in active.values():
            generation.end(error)

    def survive(self, ran: EdgedError, moved_too_often: EdgedError) -> list[Generation]:
        """The worker died. Those that ran end with `ran`, and those that have outlived MOST_MOVES workers before they
        ran with the other error; both are returned. The rest waits for the next worker."""
        active, self.active = self.active, {}
        ended = []
        for generation in active.values():
            if generation.phase is Phase.STARTED:
                generation.end(ran)
                ended.append(generation)
            elif generation.moves >= MOST_MOVES:
                generation.end(moved_too_often)
                ended.append(generation)
            else:
                generation.requeue()
                self.add(generation)
        return ended
