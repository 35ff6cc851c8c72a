"""What foreign processes cost edged's engines, with what edged does against it and without, in turn.

    python -m bench.foreign llama MODEL.gguf
    python -m bench.foreign ort FOLDER [--busy 0 1 2] [--streams 0 1 8] [--rounds 5] [--seconds 3]

Steps in one process, without scheduler and daemon; 0 streams are prompts of 64 tokens. llama.cpp: threads that follow
the load (edged.worker.foreign) against as many as the machine has. ONNX Runtime: waiting threads that spin shortly,
edged's default, against the library's own. Rounds alternate which comes first; each sample begins with SETTLE_S that
do not count. For llama-server beside the same load see the scene `foreign` of the proof.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# As the daemon sets it; OpenMP reads it when llama.cpp is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from bench.proof.disturbance import busy_threads
from edged import engines
from edged.engines.base import Generator, RowWork
from edged.hardware.probe import probe
from edged.hardware.processors import Processors
from edged.types import EngineName, LoadSpec
from edged.worker.foreign import Foreign

#: More than it takes to see that others came or went.
SETTLE_S = 2.5
#: What each stream has in its KV.
BEGINNING = list(range(100, 164))
ORT_SPIN_US = 1000


@dataclass
class Way:
    """between: what is done between two steps. rates: tokens a second, of each sample."""

    name: str
    generator: Generator
    begin: Callable[[], Callable[[], None]]
    rates: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.foreign", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["llama", "ort"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    said = parser.parse_args()
    ways = (_llama if said.engine == "llama" else _ort)(said.model, max(said.streams))
    print(f"| busy processes | streams | {' | '.join(f'{way.name}, tok/s' for way in ways)} | ratio |")
    print("|---|---|" + "---|" * (len(ways) + 1))
    for busy in said.busy:
        for streams in said.streams:
            with busy_threads(busy):
                _rounds(ways, streams, said.rounds, said.seconds)
            medians = [statistics.median(way.rates) for way in ways]
            ratios = [own / other for own, other in zip(ways[0].rates, ways[1].rates, strict=True)]
            print(f"| {busy} | {streams} | {' | '.join(f'{rate:.1f}' for rate in medians)} | "
                  f"{statistics.median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f}) |", flush=True)


def _rounds(ways: Sequence[Way], streams: int, rounds: int, seconds: float) -> None:
    for way in ways:
        way.rates = []
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            between = way.begin()
            _decode(way.generator, streams, SETTLE_S, between)
            way.rates.append(_decode(way.generator, streams, seconds, between))


def _decode(generator: Generator, streams: int, seconds: float, between: Callable[[], None]) -> float:
    """Tokens a second of all streams, or of prompts."""
    if not streams:
        return _read(generator, seconds, between)
    for row in range(streams):
        generator.step([RowWork(row, BEGINNING[generator.trim(row, 0):], 1)])
    began_s, tokens = time.perf_counter(), 0
    room = generator.caps.context - len(BEGINNING)
    while time.perf_counter() < began_s + seconds:
        if tokens // streams and not tokens // streams % room:
            for row in range(streams):
                generator.trim(row, len(BEGINNING))
        generator.step([RowWork(row, [200], 1) for row in range(streams)])
        tokens += streams
        between()
    return tokens / (time.perf_counter() - began_s)


def _read(generator: Generator, seconds: float, between: Callable[[], None]) -> float:
    began_s, tokens = time.perf_counter(), 0
    while time.perf_counter() < began_s + seconds:
        generator.trim(0, 0)
        generator.step([RowWork(0, BEGINNING, 1)])
        tokens += len(BEGINNING)
        between()
    return tokens / (time.perf_counter() - began_s)


def _llama(file: Path, rows: int) -> list[Way]:
    generator = _load("llama", file.parent, file.name, rows)
    threads = generator.caps.threads
    assert threads is not None

    def watch() -> Callable[[], None]:
        generator.set_threads(threads)
        foreign = Foreign(generator, threads, Processors())
        return lambda: foreign.look(time.monotonic())

    def fixed() -> Callable[[], None]:
        generator.set_threads(threads)
        return lambda: None

    return [Way("threads follow", generator, watch), Way(f"{threads.decode} threads", generator, fixed)]


def _ort(folder: Path, rows: int) -> list[Way]:
    return [Way(name, _load("ort", folder, "genai_config.json", rows, **options), lambda: lambda: None)
            for name, options in (("edged's spinning", {}), ("onnxruntime's own", {"spin_us": ORT_SPIN_US}))]


def _load(engine: EngineName, folder: Path, file: str, rows: int, **options: int) -> Generator:
    spec = LoadSpec(name="bench", version="1", digest="0" * 64, engine=engine, path=str(folder.resolve()), file=file,
                    context=1024, rows=rows, threads=probe().cpu.threads, options=options)
    return engines.load(spec, lambda fraction: None).generator


if __name__ == "__main__":
    main()
