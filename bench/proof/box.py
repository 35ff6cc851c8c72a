"""The box itself: how fast its memory is, and many models in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil

from bench import machine
from bench.client import BenchError, whole
from bench.proof.forms import folder_of
from bench.proof.scene import Ask, Found, Scene, forced, prose
from bench.proof.sides import MODEL, edged_of
from bench.rounds import Side
from bench.servers import BUILD, ROOT, Edged
from edged.store import Store

#: Models that fit into memory at once.
_FIT = 3
_ROUNDS_OF_MODELS = 2
_THREADS = psutil.cpu_count(logical=False) or 1


def bandwidth(side: Side, ask: Ask) -> Found:
    """gb-s: read by all cores together, in a process of its own; the others by way."""
    command = [sys.executable, "-m", "bench.proof.bandwidth", str(_THREADS)]
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if said.returncode != 0:
        raise BenchError("bench.proof.bandwidth failed; its message is above")
    ways = json.loads(said.stdout)
    return Found({"gb-s": ways.pop("read"), **ways})


def rotation(side: Side, ask: Ask) -> Found:
    """Each model is asked in its turn, twice round. load-ms: median time to the answer of a model
    that was not loaded. loaded: workers at most at one time. failed: answers that did not come."""
    store = many(ask.sizes.models)
    need_bytes = _need(store)
    served = many(ask.sizes.models, memory_bytes=int((_FIT + 0.4) * need_bytes))
    running, waits, failures, loaded = served.start(), [], [], 0
    try:
        assert running.process is not None
        for turn in range(_ROUNDS_OF_MODELS):
            for model in range(ask.sizes.models):
                began = time.perf_counter()
                try:
                    whole(running.url, "completions", _asked(name(model), ask.number + turn))
                except BenchError as error:
                    failures.append(f"{name(model)}: {error}")
                waits.append((time.perf_counter() - began) * 1000)
                loaded = max(loaded, len(running.process.children()))
    finally:
        running.stop()
    figures = {"failed": float(len(failures)), "load-ms": median(waits), "worst-load-ms": max(waits),
               "loaded": float(loaded), "memory-mib": (_FIT + 0.4) * need_bytes / machine.MIB,
               "asked": float(len(waits))}
    notes = [f"failed: {said}" for said in failures[:3]]
    if loaded > _FIT:
        notes.append(f"{loaded} workers ran at once in memory for {_FIT}")
    return Found(figures, tuple(notes))


def _asked(model: str, number: int) -> dict[str, object]:
    return {"model": model, "prompt": prose(number, 16), **forced(4, stream=False)}


def name(model: int) -> str:
    return f"many-{model:02}"


def many(models: int, memory_bytes: int | None = None) -> Edged:
    """A store with copies of the model under as many names, each of other bytes, so that each is loaded from a file of
    its own. memory_bytes: for all together."""
    settings = {"memory_bytes": str(memory_bytes)} if memory_bytes else {}
    edged = Edged(name(0), rows=2, context=1024, threads=_THREADS, home="proof-many-home", label="many", build={},
                  more="".join(f"[models.{name(model)}]\nrows = 2\ncontext = 1024\nthreads = {_THREADS}\n"
                               for model in range(1, models)), settings=settings)
    for model in range(models):
        if edged.run("show", name(model)).returncode != 0:
            copy = _copy(name(model))
            edged.take(copy)
            copy.unlink()
    return edged


def _copy(called: str) -> Path:
    """The pulled GGUF with another author's name of the same length in its header, or wherever its name stands."""
    edged = edged_of(_THREADS)
    [pulled] = [each for each in Store(edged.home).versions(edged.model) if each.conversion is None]
    content = bytearray((folder_of(edged, pulled.version) / pulled.file).read_bytes())
    place = content.find(b"general.name")
    length = int.from_bytes(content[place + 16:place + 24], "little")
    written = called.encode().ljust(length)[:length]
    content[place + 24:place + 24 + length] = written
    folder = BUILD / "proof-many"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{called}.gguf"
    made.write_bytes(content)
    return made


def _need(store: Edged) -> int:
    """What one of the models takes while it is loaded, as edged counts it: resident bytes of its worker after an
    answer."""
    running = store.start()
    try:
        assert running.process is not None
        whole(running.url, "completions", _asked(name(0), 7))
        [worker] = running.process.children()
        return int(worker.memory_info().rss)
    finally:
        running.stop()


BANDWIDTH = Scene(
    "bandwidth", "how fast all cores read memory, 256 MiB each: the best of three ways",
    ("machine",), bandwidth, lambda ask: [], rounds=2,
)
ROTATION = Scene(
    "rotation", f"24 copies of {MODEL} in memory for three, asked in turn, twice round",
    ("edged-many",), rotation, lambda ask: [_asked(name(model), ask.number) for model in range(ask.sizes.models)],
    rounds=1,
)
