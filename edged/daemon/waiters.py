"""Those who asked a model to reach a state, and wait for it."""

from __future__ import annotations

import asyncio

from edged.errors import EdgedError


class Waiters:
    """ticket: the order of arrival, shared with requests. A caller that is cancelled is forgotten."""

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], int] = {}

    def enter(self, ticket: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures[future] = ticket
        future.add_done_callback(lambda done: self._futures.pop(done, None))
        return future

    def oldest(self) -> int | None:
        return min((ticket for future, ticket in self._futures.items() if not future.done()), default=None)

    def answer(self, *, before: int | None = None) -> bool:
        """The state is reached; True if anybody waited. before: only for tickets under it."""
        due = [future for future, ticket in self._futures.items()
               if not future.done() and (before is None or ticket < before)]
        for future in due:
            future.set_result(None)
        return bool(due)

    def fail(self, error: EdgedError) -> None:
        for future in list(self._futures):
            if not future.done():
                future.set_exception(error)
