"""From the decision to load a model until its memory is free again: the store's side of a worker's life."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from edged.daemon.process import Ending, Exit
from edged.errors import EdgedError, Internal
from edged.store import Store
from edged.store.entries import Manifest

log = structlog.get_logger("edged.daemon")


async def live(store: Store, manifest: Manifest, run: Callable[[str], Awaitable[Exit]]) -> Exit:
    """`run` gets the model's folder, complete and leased until it returns. What the store refuses is a refused load;
    nothing is raised."""
    try:
        with await asyncio.to_thread(store.lease, manifest):
            return await run(str(await asyncio.to_thread(store.folder, manifest)))
    except EdgedError as error:
        return Exit(ending=Ending.REFUSED, reason=error.message, refused=error)
    except Exception as error:
        log.exception("model.failed", model=manifest.name)
        return Exit(
            ending=Ending.REFUSED, reason=f"the daemon failed: {type(error).__name__}",
            refused=Internal(f"{manifest.name} could not be loaded; the daemon's log says why"))
