"""KV files as the daemon sees them: what workers are told of them, and that they go in time though no model is loaded.

Workers write and read them; nothing here looks into one.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog

from edged.settings import Settings
from edged.store.kv import KvFolder, kv_folder
from edged.store.paths import Layout
from edged.types import KvCacheSpec

_SWEEP_S = 3600.0

log = structlog.get_logger("edged.daemon")


def kv_cache_spec(settings: Settings) -> KvCacheSpec:
    """What workers are told. The folder is named though nothing may be kept in it, so that it can be emptied."""
    return KvCacheSpec(
        ram_bytes=settings.kv_ram_bytes, folder=str(Layout(settings.home).kv), disk_bytes=settings.kv_disk_bytes,
        write_bytes_per_day=settings.kv_disk_write_bytes_per_day, ttl_s=settings.kv_disk_days * 86_400)


def kv_files(settings: Settings) -> KvFolder:
    """Those of a home."""
    return kv_folder(kv_cache_spec(settings))


class KvFiles:
    """One thread does all of it, so that a slow disk holds up no stream."""

    def __init__(self, settings: Settings) -> None:
        """Touches nothing before it is first used."""
        self._folder = kv_files(settings)
        self._thread = ThreadPoolExecutor(1, "kv files")
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on what nobody used for too long goes, and what is over the bound."""
        self._sweeping = asyncio.create_task(self._sweep(), name="kv files")

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def purge(self) -> int:
        """All of all models; how many files they were. Raises OSError where the disk refuses."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._folder.purge)

    def held_bytes(self) -> int:
        return self._folder.held_bytes()

    async def _sweep(self) -> None:
        while True:
            try:
                gone = await asyncio.get_running_loop().run_in_executor(self._thread, self._folder.expire)
            except OSError as error:
                log.warning("kv_files.not_swept", reason=error.strerror)
            else:
                if gone:
                    log.info("kv_files.expired", files=gone)
            await asyncio.sleep(_SWEEP_S)
