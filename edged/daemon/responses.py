"""Answers of /v1/responses that outlive their request: those that are kept, and those that are made in the background.

One thread owns the files, so that a slow disk holds up no stream; the event loop owns what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from edged.daemon.background import Background
from edged.settings import Settings
from edged.store.responses import Record, response_files

_SWEEP_S = 3600.0
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Responses:
    def __init__(self, settings: Settings) -> None:
        """Touches nothing before it is first used."""
        self._files = response_files(settings)
        self._thread = ThreadPoolExecutor(1, "responses", initializer=self._files.open)
        self._sweeping: asyncio.Task[None] | None = None
        self.background = Background()

    @property
    def on(self) -> bool:
        """Whether any are kept."""
        return self._files.on

    async def start(self) -> None:
        """From now on what is too old goes, though nobody asks for anything."""
        self._sweeping = asyncio.create_task(self._sweep(), name="responses")

    async def close(self) -> None:
        """What runs in the background has ended, or is ended now, and is kept."""
        await self.background.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        self._thread.shutdown()

    async def put(self, record: Record) -> None:
        """Raises InsufficientStorage and Conflict."""
        await self._in_thread(self._files.put, record)

    async def get(self, identity: str, client: str) -> Record:
        """Raises NotFound and CorruptFile."""
        return await self._in_thread(self._files.get, identity, client)

    async def delete(self, identity: str, client: str) -> None:
        """Raises NotFound."""
        await self._in_thread(self._files.delete, identity, client)

    async def purge(self) -> int:
        """All of all clients; how many they were."""
        return await self._in_thread(self._files.purge)

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._in_thread(self._files.expire)
            await asyncio.sleep(_SWEEP_S)

    async def _in_thread(self, do: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        assert not kwargs
        return await asyncio.get_running_loop().run_in_executor(self._thread, do, *args)
