"""Finds the options that serve a version fastest at a place of this machine: effects, by trials that stay and take
turns. `edged.hardware.tuning` says what is worth trying and which value has won."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from msgspec import Struct

from edged.daemon.proving import command_of
from edged.daemon.spec import BATCH_THREADS, load_spec
from edged.daemon.turns import Turns
from edged.errors import EdgedError
from edged.hardware.facts import Facts
from edged.hardware.measured import Measured
from edged.hardware.place import Place
from edged.hardware.tuning import EVERY, MARGIN, Option, Part, Race, options, seconds
from edged.ipc.trials import Trial
from edged.store import Store
from edged.store.entries import Manifest, ModelEntry
from edged.types import LoadSpec, Tuning

#: For a part of a turn, where the whole time allows.
PART_S, PART_SHARE = 0.25, 1 / 200
#: And for comparing all that was chosen with the defaults at the end, which may take a little more.
LAST_SHARE, OVERRUN_SHARE = 0.25, 0.1
#: Two processes are loaded at once: so many times what one has, of the memory that is free.
SPARE_MEMORY = 1.2

#: Loads a model and yields it, to be measured in turns.
OpenTurns = Callable[[Trial, Sequence[str]], AbstractAsyncContextManager[Turns]]


class Tried(Struct, frozen=True, kw_only=True):
    """One value of an option. Rates in tokens a second, None where its part was not measured: it cannot change it, or
    there was no time. gain: how many times as fast as what was there."""

    option: str
    value: Any
    prefill: float | None = None
    decode: float | None = None
    decode_many: float | None = None
    gain: float | None = None
    kept: bool = False
    note: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """defaults: rates with the engine's own options, of all parts. tuning: what is kept."""

    defaults: dict[Part, float]
    tried: list[Tried]
    tuning: Tuning


@dataclass
class _Config:
    """What is best so far, loaded. threads: of decoding and batches, where turns may set them."""

    turns: Turns
    threads: tuple[int, int] | None
    chosen: dict[str, Any] = field(default_factory=dict)

    async def measure(self, parts: Sequence[Part], part_s: float) -> dict[Part, float]:
        return await self.turns.measure(parts, part_s, self.threads)


class Tuner:
    """Of one version at one place. seconds: that it may take in all, loads included."""

    def __init__(
        self, store: Store, entry: ModelEntry, facts: Facts, measured: Measured, *, open_turns: OpenTurns,
        trial_command: Sequence[str], seconds: float, memory_bytes: int = 0,
        say: Callable[[str], None] = lambda words: None, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._entry, self._facts, self._measured, self._open = store, entry, facts, measured, open_turns
        self._command, self._memory_bytes, self._say, self._clock = trial_command, memory_bytes, say, clock
        self._part_s, self._seconds = min(PART_S, seconds * PART_SHARE), seconds
        self._until_s = 0.0
        self._tried: list[Tried] = []

    async def tune(self, manifest: Manifest, place: Place) -> Report:
        """What it finds is recorded. Raises what loading with the defaults raises."""
        self._until_s = self._clock() + self._seconds * (1 - LAST_SHARE)
        with await asyncio.to_thread(self._store.lease, manifest):
            folder = await asyncio.to_thread(self._store.folder, manifest)
            plain = load_spec(manifest, self._entry, place, folder=str(folder), memory_bytes=self._memory_bytes,
                              serving=None)
            command = command_of(self._store, place, self._command)
            report = await self._search(plain, command)
        self._measured.record(manifest.digest, place.key, tuning=report.tuning)
        return report

    async def _search(self, plain: LoadSpec, command: Sequence[str]) -> Report:
        async with AsyncExitStack() as stack:
            best = await self._load(stack, plain, command, {})
            defaults = await best.measure(EVERY, self._part_s)
            said = {*plain.options, *(("threads", BATCH_THREADS) if self._entry.threads is not None else ())}
            room = self._facts.memory.available > SPARE_MEMORY * 2 * best.turns.result.resident_bytes
            for option in options(plain.engine, self._facts.cpu, sets_threads=best.threads is not None, said=said):
                if self._clock() >= self._until_s:
                    self._skip(option, "there was no time left")
                elif option.live:
                    best = await self._race_live(option, best)
                elif not room:
                    self._skip(option, "there is no memory to load it twice")
                else:
                    best = await self._race_loaded(option, best, stack, plain, command)
            chosen = best.chosen
            gain = await self._against_defaults(best, plain, command, room=room) if chosen else 1.0
        tuning = self._tuning(chosen if gain >= MARGIN else {}, gain)
        return Report(defaults=defaults, tried=self._tried, tuning=tuning)

    def _tuning(self, chosen: dict[str, Any], gain: float) -> Tuning:
        if not chosen:
            self._tried = [msgspec.structs.replace(one, kept=False, note="in the end no faster than the defaults")
                           if one.kept else one for one in self._tried]
        return Tuning(threads=chosen.get("threads"), gain=gain if chosen else 1.0, taken=time.time(),
                      options={name: value for name, value in chosen.items() if name != "threads"})

    async def _race_live(self, option: Option, best: _Config) -> _Config:
        """Several values at once: no other process is needed."""
        assert best.threads is not None
        decode, batch = best.threads
        others = [replace(best, threads=(value, batch) if option.name == "threads" else (decode, value),
                          chosen=best.chosen | {option.name: value}) for value in option.values]
        winner = await self._race(option, option.values, best, others)
        if winner is None:
            return best
        # One is told with the other: without, batches would take as many threads as decoding.
        won = others[winner]
        assert won.threads is not None
        won.chosen |= {"threads": won.threads[0], BATCH_THREADS: won.threads[1]}
        return won

    async def _race_loaded(
        self, option: Option, best: _Config, stack: AsyncExitStack, plain: LoadSpec, command: Sequence[str],
    ) -> _Config:
        for value in option.values:
            if self._clock() >= self._until_s:
                self._skip(replace(option, values=(value,)), "there was no time left")
                continue
            try:
                async with AsyncExitStack() as candidate:
                    other = await self._load(candidate, plain, command, best.chosen | {option.name: value})
                    if await self._race(option, (value,), best, [other]) is not None:
                        await stack.aclose()
                        stack.push_async_exit(candidate.pop_all())
                        best = other
            except EdgedError as error:
                self._tried.append(Tried(option=option.name, value=value, note=f"it failed: {error.message}"))
        return best

    async def _race(
        self, option: Option, values: Sequence[Any], best: _Config, others: Sequence[_Config],
    ) -> int | None:
        race, rates = Race(len(others)), [dict[Part, float]() for _ in others]
        self._say(f"{option.name}: {', '.join(map(_word, values))}")
        while not race.over and self._clock() < self._until_s:
            there = await best.measure(option.parts, self._part_s)
            for number in race.left:
                rates[number] = await others[number].measure(option.parts, self._part_s)
            race.turn(seconds(there, option.parts),
                      {number: seconds(rates[number], option.parts) for number in race.left})
        winner = race.winner
        for number, value in enumerate(values):
            note = "kept" if number == winner else "slower or no faster" if race.over else "there was no time left"
            self._tried.append(Tried(option=option.name, value=value, gain=round(race.gain(number), 3),
                                     kept=number == winner, note=note, **rates[number]))
        return winner

    async def _against_defaults(
        self, best: _Config, plain: LoadSpec, command: Sequence[str], *, room: bool,
    ) -> float:
        """How many times as fast all that was chosen is together; 1 where it did not win over the defaults."""
        self._say("all that was chosen, against the defaults")
        race = Race(1)
        async with self._defaults(best, plain, command, room=room) as defaults:
            while not race.over and self._clock() < self._until_s + self._seconds * (LAST_SHARE + OVERRUN_SHARE):
                there = await defaults.measure(EVERY, self._part_s)
                race.turn(seconds(there, EVERY), {0: seconds(await best.measure(EVERY, self._part_s), EVERY)})
        return race.gain(0) if race.winner is not None else 1.0

    @contextlib.asynccontextmanager
    async def _defaults(
        self, best: _Config, plain: LoadSpec, command: Sequence[str], *, room: bool,
    ) -> AsyncIterator[_Config]:
        """In the process that is there, where only threads were chosen."""
        if best.threads is not None and best.chosen.keys() <= {"threads", BATCH_THREADS}:
            yield replace(best, threads=_threads(plain, {}))
            return
        async with AsyncExitStack() as stack:
            yield await self._load(stack, plain, command, {})

    async def _load(
        self, stack: AsyncExitStack, plain: LoadSpec, command: Sequence[str], chosen: dict[str, Any],
    ) -> _Config:
        spec = msgspec.structs.replace(
            plain, threads=chosen.get("threads", plain.threads),
            options=plain.options | {name: value for name, value in chosen.items() if name != "threads"})
        turns = await stack.enter_async_context(self._open(Trial(spec=spec, seconds=0, turns=True), command))
        return _Config(turns, _threads(plain, chosen) if turns.result.sets_threads else None, chosen)

    def _skip(self, option: Option, note: str) -> None:
        self._tried += [Tried(option=option.name, value=value, note=note) for value in option.values]


def _threads(plain: LoadSpec, chosen: dict[str, Any]) -> tuple[int, int]:
    """Of decoding and of batches."""
    decode = int(chosen.get("threads", plain.threads) or 1)
    return decode, int(chosen.get(BATCH_THREADS, plain.options.get(BATCH_THREADS, decode)))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
