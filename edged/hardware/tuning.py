"""Which options of an engine are worth trying on this machine, and when one of them has won. Pure.

One option after another is raced against what is best so far, in turns that alternate between them, so that whatever
else the machine does hits both. Wall times scatter by some 5 %, so the default stays unless another value is faster in
nearly every turn and by a margin in the middle one; a value that cannot get there any more is dropped at once.
"""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edged.hardware.facts import Cpu
from edged.hardware.measured import ANSWER_TOKENS, PROMPT_TOKENS

Part = Literal["prefill", "decode", "decode_many"]
#: Tokens of each part in the request that options are chosen for, as of `Speed.seconds`.
TOKENS: Mapping[Part, float] = {
    "prefill": PROMPT_TOKENS, "decode": ANSWER_TOKENS / 2, "decode_many": ANSWER_TOKENS / 2}
EVERY: tuple[Part, ...] = ("prefill", "decode", "decode_many")
DECODING: tuple[Part, ...] = ("decode", "decode_many")

#: Of a race. Of two equal values one wins 5 of 6 turns in 11 % of races, the margin makes that 3 % at the usual
#: scatter, and what wins by chance hardly wins again when all that was chosen is raced against the defaults. One that
#: is a seventh faster wins in more than 9 of 10.
TURNS = 6
WINS = 5
MARGIN = 1.05
#: Slower than that in one turn is no noise.
HOPELESS = 0.85

#: Options whose other value makes a text depend on what else is computed, where two tokens are nearly as likely.
UNSETTLING = frozenset({"key_type", "kv_unified"})


@dataclass(frozen=True, slots=True)
class Option:
    """name: `threads`, or a key of the engine's options. values: to be raced against the one that is there. parts: that
    it can change. live: it can be set between two turns of one process."""

    name: str
    values: tuple[Any, ...]
    parts: tuple[Part, ...] = EVERY
    live: bool = False


def options(engine: str, cpu: Cpu, *, sets_threads: bool, said: Container[str]) -> list[Option]:
    """Those that change most come first: time may run out. said: keys that the operator decided.

    Of KV types only those that differ no more than two shapes of a batch do are tried (bench/LOG.md): keys in f16 or
    q8_0, values in f16."""
    threads = thread_counts(cpu)
    known: dict[str, list[Option]] = {
        "llama": [
            Option("threads", threads, DECODING, live=sets_threads),
            Option("batch_threads", threads, ("prefill",), live=sets_threads),
            Option("flash_attention", (False,)),
            Option("key_type", ("f16",)),
            Option("kv_unified", (True,)),
            Option("spin_count", (300, 5000)),
            Option("ubatch", (128, 256), ("prefill",)),
        ],
        "ort": [Option("threads", threads), Option("spin_us", (0, 100, 1000))],
        "fake": [Option("threads", threads, DECODING, live=sets_threads),
                 Option("batch_threads", threads, ("prefill",), live=sets_threads), Option("dawdle", (False, True))],
    }
    return [option for option in known.get(engine, []) if option.name not in said and option.values]


def thread_counts(cpu: Cpu) -> tuple[int, ...]:
    """Beside one for each fast core: one less, for the daemon and clients; half, where memory is the bottleneck; and
    one for each logical processor."""
    usual = cpu.threads
    return tuple(sorted({count for count in (usual - 1, usual // 2, cpu.usable) if count >= 1} - {usual}))


def seconds(rates: Mapping[Part, float], parts: Iterable[Part]) -> float:
    """What the request takes of these parts, at these tokens a second."""
    return sum(TOKENS[part] / rates[part] for part in parts)


@dataclass
class Race:
    """Several values against the one that is there. A turn is one measurement of it and of each value that is left."""

    count: int
    turns: int = 0
    ratios: list[list[float]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ratios = [[] for _ in range(self.count)]
        self.left = list(range(self.count))

    def turn(self, there_s: float, times_s: Mapping[int, float]) -> None:
        """times_s: of each value that is left, by its number; there_s: of the one that is there."""
        self.turns += 1
        for number, time_s in times_s.items():
            self.ratios[number].append(there_s / time_s)
        self.left = [number for number in self.left if self._can_win(self.ratios[number])]

    @property
    def over(self) -> bool:
        return not self.left or self.turns >= TURNS

    @property
    def winner(self) -> int | None:
        """None where the one that is there stays, and before the last turn."""
        won = [number for number in self.left if self.turns >= TURNS and self.gain(number) >= MARGIN]
        return max(won, key=self.gain, default=None)

    def gain(self, number: int) -> float:
        """How many times as fast; 1 of one that was never measured."""
        return statistics.median(self.ratios[number]) if self.ratios[number] else 1.0

    @staticmethod
    def _can_win(ratios: Sequence[float]) -> bool:
        lost = sum(ratio <= 1 for ratio in ratios)
        return lost <= TURNS - WINS and min(ratios, default=1.0) >= HOPELESS
