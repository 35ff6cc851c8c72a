"""Measures a loaded generator in turns: tokens a second of its decoding and of its prefill, for moments, again and
again. Its rows are not used for anything else meanwhile."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from edged.engines.base import Generator, RowWork, Threads
from edged.hardware.tuning import Part

#: Streams that are decoded together, where the engine has so many rows.
STREAMS = 8
#: What each stream has in its KV when its decoding is measured.
BEGINNING_TOKENS = 128
#: Of one prefill, and of the first one, which reads weights from disk and lets kernels compile.
PREFILL_TOKENS, WARM_UP_TOKENS = 256, 32


class Rates:
    def __init__(self, generator: Generator, text: Sequence[int]) -> None:
        """text: tokens to compute with."""
        self._generator = generator
        caps = generator.caps
        self._prefill = repeated(text, min(PREFILL_TOKENS, caps.context - 1, caps.step_tokens))
        self._beginning = repeated(text, min(BEGINNING_TOKENS, caps.context // 2))
        self._tokens = itertools.cycle(text)
        self.streams = max(1, min(STREAMS, caps.rows, caps.kv_tokens // (2 * len(self._beginning))))
        for _ in range(2):
            began_s = time.monotonic()
            self._step_prompt(repeated(text, min(WARM_UP_TOKENS, len(self._prefill))))
        # A box that takes minutes for a prompt is asked for a short one.
        affordable = int(WARM_UP_TOKENS / max(time.monotonic() - began_s, 1e-9))
        del self._prefill[max(WARM_UP_TOKENS, affordable):], self._beginning[max(WARM_UP_TOKENS, affordable):]

    def measure(self, parts: Iterable[Part], seconds: float, threads: Threads | None = None) -> dict[Part, float]:
        """seconds: for each part, which has at least a step. threads: to be set before; None leaves them. Raises
        EngineError, DeviceLost."""
        if threads is not None:
            self._generator.set_threads(threads)
        how: dict[Part, Callable[[float], float]] = {
            "prefill": self._prefill_rate, "decode": lambda seconds: self._decode_rate(1, seconds),
            "decode_many": lambda seconds: self._decode_rate(self.streams, seconds)}
        return {part: how[part](seconds) for part in parts}

    def _prefill_rate(self, seconds: float) -> float:
        return len(self._prefill) / typical_s(lambda: self._step_prompt(self._prefill), seconds)

    def _decode_rate(self, rows: int, seconds: float) -> float:
        caps, beginning = self._generator.caps, self._beginning
        for row in range(rows):
            # What is there already comes from an earlier turn: KV of the same tokens.
            if rest := beginning[self._generator.trim(row, len(beginning)):]:
                self._generator.step([RowWork(row, rest, 1)])
        room = min(caps.context, caps.kv_tokens // rows) - len(beginning)

        def step() -> None:
            self._generator.step([RowWork(row, [next(self._tokens)], 1) for row in range(rows)])

        step()
        return rows / typical_s(step, seconds, most=max(1, room - 1))

    def _step_prompt(self, tokens: Sequence[int]) -> None:
        self._generator.trim(0, 0)
        self._generator.step([RowWork(0, tokens, 1)])

    def close(self) -> None:
        """The rows are empty again."""
        for row in range(self.streams):
            self._generator.trim(row, 0)


def typical_s(do: Callable[[], None], seconds: float, *, least: int = 1, most: int = sys.maxsize) -> float:
    """The median of how long it takes, repeated for `seconds`: what else the machine is at for a moment does not
    count."""
    times: list[float] = []
    until_s = time.monotonic() + seconds
    while len(times) < most and (len(times) < least or time.monotonic() < until_s):
        began_s = time.monotonic()
        do()
        times.append(time.monotonic() - began_s)
    return max(statistics.median(times), 1e-9)


def repeated(text: Sequence[int], count: int) -> list[int]:
    return [text[index % len(text)] for index in range(count)]
