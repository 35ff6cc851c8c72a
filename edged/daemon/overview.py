"""What is told of one model, gathered from those who own it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.daemon.seat import Seat
from edged.daemon.status import ModelState, ModelStatus
from edged.errors import EdgedError

if TYPE_CHECKING:
    from edged.daemon.model import Model


def overview(model: Model, seat: Seat, *, idle_s: float | None, restarts: int, reloaded: bool, captured: bool,
             error: EdgedError | None, name: str | None, alias_of: str | None) -> ModelStatus:
    """idle_s: None unless it is loaded and has nothing to do. reloaded: because it was in memory before a restart.
    captured: answers of its name are kept. error: of its last load. name: under which it is told, its own where
    None."""
    manifest, requests, state = model.manifest, model.requests, model.state
    info, stats, devices = seat.info, seat.stats, seat.devices
    if state is ModelState.ABSENT:
        state = (ModelState.BROKEN if model.breaker.open else
                 ModelState.DEVICE_LOST if devices.lost is not None else ModelState.ABSENT)
    running = requests.running()
    return ModelStatus(
        name=name or manifest.name, version=manifest.version, digest=manifest.digest, engine=manifest.engine,
        precision=manifest.precision, size=manifest.size, parameters=manifest.parameters or model.entry.parameters,
        context=info.context if info else None, device=info.device if info else None,
        state=state, pinned=model.stay.pinned, keep_alive_s=model.stay.keep_alive_s, idle_s=idle_s,
        running=running, waiting=len(requests) - running, resident_bytes=stats.resident_bytes,
        kv_used_tokens=stats.kv_used_tokens, kv_tokens=info.kv_tokens if info else 0,
        load_s=seat.load_s if info else None, rows=info.rows if info else None, restarts=restarts,
        alias_of=alias_of, created=manifest.created, error=error.message if error else None,
        reason=devices.reason if info else None, engine_version=info.engine_version if info else None,
        environment=devices.environment if info else None,
        adapters=model.adapters, task=model.task,
        dimensions=info.dimensions if info else None, threads=stats.threads or None,
        tuning=seat.tuning if info else None, kv_bytes=info.kv_bytes if info else 0,
        kv_ram_bytes=stats.kv_ram_bytes,
        kv_disk_bytes=stats.kv_disk_bytes, prefix_disk_tokens=stats.prefix_disk_tokens, notes=stats.notes,
        speculative_proposed_tokens=stats.speculative_proposed_tokens,
        speculative_accepted_tokens=stats.speculative_accepted_tokens, reloaded=reloaded,
        captured=captured and model.task == "generate",
    )
