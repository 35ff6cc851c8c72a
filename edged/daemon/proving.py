"""Measures a version on a place of this machine, and proves that a device computes what the processor does: effects, by
trials; what comes of them is recorded. `edged.hardware.admit` decides what is to be done, `selftest` judges."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from edged.daemon.spec import load_spec
from edged.daemon.trials import RunTrial, lasting
from edged.errors import DeviceUnavailable, EdgedError
from edged.hardware.environments import python_of
from edged.hardware.facts import Facts
from edged.hardware.fit import bits_per_weight
from edged.hardware.measured import Measured, Verdict
from edged.hardware.place import Place, places
from edged.hardware.providers import CPU, provider_of
from edged.hardware.selftest import SAME_FORM, SISTER_FORM, Limits, compare, sensible
from edged.ipc.trials import Trial, TrialResult
from edged.store import Store
from edged.store.entries import HubSource, Manifest, ModelEntry
from edged.store.lineage import ConvertedSource


def command_of(store: Store, place: Place, command: Sequence[str]) -> tuple[str, ...]:
    """command: of edged's own interpreter. Raises NotFound where the environment was removed, DeviceUnavailable where
    it is broken.

    -P: the working folder is where edged is installed, and of the packages beside it the environment has others."""
    if place.environment is None:
        return tuple(command)
    return (str(python_of(store.home, place.environment)), "-P", *command[1:])


def are_sisters(one: Manifest, other: Manifest) -> bool:
    """Forms of the same weights: made of one model with the same adapters, or from one repository."""
    match one.source, other.source:
        case ConvertedSource() as mine, ConvertedSource() as theirs:
            return (mine.base_digest, mine.adapters) == (theirs.base_digest, theirs.adapters)
        case HubSource(repo=mine), HubSource(repo=theirs):
            return mine == theirs
    return False


class Proving:
    """Of the versions of one model. seconds: for each figure. memory_bytes: for a trial; 0 does not bound it."""

    def __init__(
        self, store: Store, entry: ModelEntry, facts: Facts, measured: Measured, *, run: RunTrial,
        trial_command: Sequence[str], seconds: float, memory_bytes: int = 0,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._store, self._entry, self._facts, self._measured, self._run = store, entry, facts, measured, run
        self._command, self._seconds, self._memory_bytes, self._say = trial_command, seconds, memory_bytes, say

    async def measure(self, manifest: Manifest, place: Place) -> None:
        """Record its speed. Raises what a trial raises, and DeviceUnavailable where it ran on another device."""
        result = await self._try(manifest, place, logits=False, measure=True)
        if provider_of(result.device) != place.provider:
            raise DeviceUnavailable(_elsewhere(place, result))

    async def prove(self, manifest: Manifest, place: Place, *, measure: bool) -> Verdict:
        """Record whether it answers rightly there, and its speed. Raises what a trial raises where that says nothing of
        the device."""
        verdict = await self._verdict(manifest, place, measure=measure)
        verdict = replace(verdict, taken=time.time())
        self._measured.record(manifest.digest, place.key, verdict=verdict)
        if verdict.passed and manifest.never_run:
            await asyncio.to_thread(self._has_run, manifest)
        return verdict

    def _has_run(self, manifest: Manifest) -> None:
        """A store that cannot be written goes on saying that it never ran, and the recorded verdict knows better."""
        with contextlib.suppress(OSError, EdgedError):
            self._store.amend(replace(self._store.manifest(manifest.name, manifest.version), never_run=False))

    async def _verdict(self, manifest: Manifest, place: Place, *, measure: bool) -> Verdict:
        name = place.provider
        try:
            device = await self._try(manifest, place, logits=True, measure=measure)
        except EdgedError as error:
            if lasting(error):
                return Verdict(passed=False, reason=f"{name} cannot run it here: {error.message}")
            raise
        if provider_of(device.device) != place.provider:
            return Verdict(passed=False, reason=_elsewhere(place, device))
        if (found := self._reference(manifest)) is None:
            return sensible(device.text_logprob, device.vocabulary, name=name)
        reference, at, limits = found
        worth_it = measure and reference is manifest and self._entry.require is None
        processor = await self._try(reference, at, logits=True, measure=worth_it)
        return compare(device.positions, processor.positions, limits, name=name)

    def _reference(self, manifest: Manifest) -> tuple[Manifest, Place, Limits] | None:
        """The same files on the processor; else the sister that keeps most bits there."""
        if (place := self._on_processor(manifest)) is not None:
            return manifest, place, SAME_FORM
        sisters = [(one, place) for one in self._store.versions(manifest.name)
                   if are_sisters(one, manifest) and (place := self._on_processor(one)) is not None]
        best = max(sisters, key=lambda pair: bits_per_weight(pair[0].precision) or 0.0, default=None)
        return None if best is None else (*best, SISTER_FORM)

    def _on_processor(self, manifest: Manifest) -> Place | None:
        return next((place for place in places(self._facts, manifest.engine, manifest.target,
                                               environment=self._entry.environment)
                     if place.provider == CPU and place.refused is None), None)

    async def _try(self, manifest: Manifest, place: Place, *, logits: bool, measure: bool) -> TrialResult:
        doing = [what for what, wanted in (("measuring", measure), ("reading logits", logits)) if wanted]
        self._say(f"{manifest.name}@{manifest.version} ({manifest.precision}) on {place.provider}: "
                  f"{' and '.join(doing)}")
        with await asyncio.to_thread(self._store.lease, manifest):
            folder = await asyncio.to_thread(self._store.folder, manifest)
            spec = load_spec(manifest, self._entry, place, folder=str(folder), memory_bytes=self._memory_bytes,
                             tuning=self._measured.get(manifest.digest, place.key).tuning, serving=None)
            trial = Trial(spec=spec, seconds=self._seconds if measure else 0.0, logits=logits)
            result = await self._run(trial, command_of(self._store, place, self._command))
        if result.speed is not None and provider_of(result.device) == place.provider:
            self._measured.record(manifest.digest, place.key, speed=result.speed)
        return result


def _elsewhere(place: Place, result: TrialResult) -> str:
    return f"told to run on {place.provider}, it ran on {result.device}"
