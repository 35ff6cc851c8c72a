"""Before a version is served: where it will run, measured and proved as far as that is needed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from edged.daemon.proving import Proving, command_of
from edged.daemon.site import Site
from edged.daemon.spec import load_spec, task_of
from edged.daemon.trials import MEASURING_S, run_trial
from edged.errors import DeviceUnavailable, EdgedError
from edged.hardware.admit import Measure, Prove, Refuse, Serve, next_step
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured
from edged.hardware.place import on_processor_only, places
from edged.store.entries import Manifest, ModelEntry
from edged.types import DraftSpec, LoadSpec, Tuning

#: For each figure, at the first load of a version that more than one device could run.
SECONDS = 1.0

log = structlog.get_logger("edged.daemon")


@dataclass(frozen=True, slots=True)
class Placed:
    """command: of the worker, with the interpreter of its engine. tuning: in force, None where there is none."""

    serve: Serve
    spec: LoadSpec
    command: tuple[str, ...]
    measured: Measured
    tuning: Tuning | None

    def keep(self, tuning: Tuning) -> None:
        """What its worker measured. Writes a file."""
        self.measured.record(self.spec.digest, self.serve.place.key, tuning=tuning)


async def find_place(
    site: Site, manifest: Manifest, entry: ModelEntry, *, folder: str, only: str | None, memory_bytes: int,
    draft: DraftSpec | None = None,
) -> Placed:
    """folder: of the store, leased. only: the one provider that may serve. memory_bytes: what it may take. draft: its
    folder is leased too.

    Takes milliseconds, but for the first load on a device, which takes seconds. Cancel it to end its trials. Raises
    DeviceUnavailable with the reason of each place, and what the store raises."""
    facts = await asyncio.to_thread(site.facts)
    measured = Measured(site.store.home, fingerprint(facts))
    proving = Proving(
        site.store, entry, facts, measured, trial_command=site.trial_command, seconds=SECONDS,
        memory_bytes=memory_bytes, run=partial(run_trial, timeout_s=site.settings.load_timeout_s + MEASURING_S))
    candidates = places(facts, manifest.engine, manifest.target, require=only, environment=entry.environment)
    if task_of(manifest, entry) != "generate":
        candidates = on_processor_only(candidates)
    failed: dict[str, str] = {}
    while True:
        step = next_step(candidates, lambda key: measured.get(manifest.digest, key), failed)
        match step:
            case Serve(place=place):
                tuning = measured.get(manifest.digest, place.key).tuning
                spec = load_spec(manifest, entry, place, folder=folder, memory_bytes=memory_bytes,
                                 serving=site.settings, draft=draft, tuning=tuning)
                return Placed(step, spec, command_of(site.store, place, site.worker_command), measured, tuning)
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
                        verdict = await proving.prove(manifest, place, measure=step.measure)
                        (log.info if verdict.passed else log.error)(
                            "device.proved", model=f"{manifest.name}@{manifest.version}", provider=place.provider,
                            passed=verdict.passed, reason=verdict.reason)
                except EdgedError as error:
                    failed[place.key] = f"{place.provider} could not be tried: {error.message}"
                    log.warning("device.not_tried", model=f"{manifest.name}@{manifest.version}",
                                provider=place.provider, reason=error.message)
