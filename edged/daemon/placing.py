"""Before a version is served: where it will run, measured and proved as far as that is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from edged.daemon.proving import Proving
from edged.daemon.trials import RunTrial
from edged.errors import DeviceUnavailable, EdgedError
from edged.hardware.admit import Measure, Prove, Refuse, Serve, next_step
from edged.hardware.facts import Facts
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured
from edged.hardware.place import places
from edged.store import Store
from edged.store.entries import Manifest, ModelEntry

#: For each figure, at the first load of a version that more than one device could run.
SECONDS = 1.0

log = structlog.get_logger("edged.daemon")


async def find_place(
    store: Store, manifest: Manifest, entry: ModelEntry, *, facts: Callable[[], Facts], only: str | None,
    memory_bytes: int, run: RunTrial, trial_command: Sequence[str],
) -> Serve:
    """only: the one provider that may serve. Takes seconds at the first load on a device, and milliseconds after it.
    Cancel it to end its trials. Raises DeviceUnavailable with the reason of each place, and what the store raises."""
    here = await asyncio.to_thread(facts)
    measured = Measured(store.home, fingerprint(here))
    proving = Proving(store, entry, here, measured, run=run, trial_command=trial_command, seconds=SECONDS,
                      memory_bytes=memory_bytes)
    candidates = places(here, manifest.engine, manifest.target, require=only)
    failed: dict[str, str] = {}
    while True:
        step = next_step(candidates, lambda provider: measured.get(manifest.digest, provider), failed)
        match step:
            case Serve():
                return step
            case Refuse(reasons=reasons):
                name = manifest.name
                raise DeviceUnavailable(
                    f"{name} cannot be served{f' on {only}' if only else ''}: {'; '.join(reasons)}. `edged hardware "
                    f"{name}` shows all that was tried, `edged bench {name}` tries again")
            case Measure(place=place) | Prove(place=place):
                try:
                    if isinstance(step, Measure):
                        await proving.measure(manifest, place)
                    else:
                        await proving.prove(manifest, place, measure=step.measure)
                except EdgedError as error:
                    failed[place.provider] = f"{place.provider} could not be tried: {error.message}"
                    log.warning("device.not_tried", model=f"{manifest.name}@{manifest.version}",
                                provider=place.provider, reason=error.message)
