"""How many threads a worker computes with: found at its load where nothing says it, and watched while it serves."""

from __future__ import annotations

import os

from edged.engines.base import Generator, Threads
from edged.hardware.processors import Processors
from edged.types import LoadSpec, Tuning
from edged.worker.foreign import Foreign
from edged.worker.speculation import Speculation


def tuned(spec: LoadSpec, generator: Generator, tokens_per_s: float) -> tuple[Threads | None, Tuning | None]:
    """tokens_per_s: of its prefill. Returns the threads that it has on a quiet machine, None where they are not known,
    and what is to be kept of this measurement, if one was made. Raises EngineError, DeviceLost."""
    usual = generator.caps.threads
    if not spec.try_threads or usual is None or not generator.caps.sets_threads:
        return usual, None
    # Once for each version and machine: other loads need no facts of it.
    from edged.hardware.probe import probe
    from edged.hardware.tuning import thread_counts
    from edged.worker.first_load import LEAST_TOKENS_PER_S, find_threads

    if tokens_per_s < LEAST_TOKENS_PER_S:
        return usual, None
    found = find_threads(generator, usual, thread_counts(probe().cpu), _machine())
    return found.threads, found.tuning


def watched(generator: Generator, threads: Threads | None, speculation: Speculation | None) -> Foreign | None:
    """None for an engine whose threads are fixed. threads: on a quiet machine. speculation: whose draft model computes
    in turn with the served one."""
    if threads is None or not generator.caps.sets_threads:
        return None
    if speculation is None:
        return Foreign(generator, threads, _machine())
    return Foreign(generator, threads, _machine(), beside=speculation.set_threads)


def _machine() -> Processors:
    return Processors(daemon=os.getppid())
