"""How fast subjects are, and what they take of memory: one request at a time, turn about.

In each round every subject answers the same prompt, greedily, in an order that changes from round to round. What else
the machine does meanwhile meets all of them alike, so times are compared round by round. The prompts are new to all:
what serves keeps prompts that it has read, and would answer them sooner the second time. Rounds are as many as fit into
BUDGET_S, LEAST_ROUNDS at least. Where memory does not hold all subjects at once they run one after the other, which is
told.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import psutil
from msgspec import Struct

from converters.source import count_weights
from edged.errors import InvalidApiKey, InvalidRequest, ModelNotFound
from edged.store import files
from training.evaluate.bootstrap import LEVEL, Floats
from training.evaluate.racers import Racer, racer
from training.evaluate.results import Memory, Ratio, Speed, Spread
from training.evaluate.subject import Subject
from training.examples import Example
from training.run import Moment, Tell, digest

MOST_ROUNDS = 24
LEAST_ROUNDS = 6
BUDGET_S = 120.0
#: Round by round, for who wants to look: `<evaluate>/rounds.json`.
ROUNDS_FILE = "rounds.json"
#: `<run>/raced.json`.
RACED_FILE = "raced.json"
_RESAMPLES = 4000
#: Python and torch without a model, measured, and what an answer needs beside weights.
_RUNTIME_BYTES = 600 << 20


class Timed(Struct, frozen=True, kw_only=True):
    """One answer. tokens: of it; None where the subject does not tell."""

    first_token_s: float
    answer_s: float
    tokens: int | None


class Race(Struct, frozen=True, kw_only=True):
    """rounds: by subject, of each round the answer. key: of what raced. turn_about: all were in memory at once."""

    key: str
    turn_about: bool = True
    rounds: dict[str, list[Timed]]
    memory: dict[str, Memory]


def prompts_for(pools: Sequence[Sequence[Example]], asked: Collection[str], seed: int) -> list[Example]:
    """One for warming up and one for each round: of the first pool those that were not asked before, by id, then of the
    next ones. The same ones for all subjects, whatever the order of the files. Where these make no LEAST_ROUNDS, some
    that were asked come last."""
    fresh: dict[str, Example] = {}
    stale: dict[str, Example] = {}
    for pool in pools:
        for example in sorted(pool, key=lambda one: hashlib.sha256(f"{seed}:{one.id}".encode()).hexdigest()):
            (stale if example.id in asked else fresh).setdefault(example.id, example)
    lacking = max(0, LEAST_ROUNDS + 1 - len(fresh))
    return [*fresh.values(), *list(stale.values())[:lacking]][:MOST_ROUNDS + 1]


def key_of(subjects: Sequence[Subject], prompts: Sequence[Example], max_tokens: int, out: Path) -> str:
    """prompts: as they are drawn where none has raced yet; those of a race that is repeated are others."""
    marks = [subject.marks(out) for subject in subjects]
    return digest([subject.name for subject in subjects], marks, [one.id for one in prompts], max_tokens)


def raced_before(subjects: Sequence[Subject], key: str, out: Path) -> Race | None:
    """What rounds.json holds, where the same subjects raced."""
    if any(subject.marks(out) is None for subject in subjects):
        return None
    return before if (before := _read(out)) is not None and before.key == key else None


class Raced:
    """Prompts that raced, by what serves, which may keep them still: in a file of the run, which outlives the stage."""

    def __init__(self, folder: Path, subjects: Sequence[Subject]) -> None:
        self._folder = folder
        self._served = [digest(subject.identity or subject.base_url, subject.model, subject.served_adapter)
                        for subject in subjects if subject.kind == "endpoint"]
        try:
            self._known = msgspec.json.decode((folder / RACED_FILE).read_bytes(), type=dict[str, list[str]])
        except (FileNotFoundError, msgspec.MsgspecError):
            self._known = {}

    def ids(self) -> set[str]:
        """That any of them has had."""
        return {one for served in self._served for one in self._known.get(served, [])}

    def note(self, prompts: Sequence[Example]) -> None:
        """Before they are asked, so that a race that is broken off counts too."""
        if not self._served:
            return
        for served in self._served:
            self._known[served] = sorted({*self._known.get(served, []), *(one.id for one in prompts)})
        files.publish_bytes(self._folder / RACED_FILE, msgspec.json.encode(self._known), self._folder)


def race(
    subjects: Sequence[Subject], prompts: Sequence[Example], max_tokens: int, out: Path, tell: Tell, *, key: str,
    stage: str = "evaluate",
) -> Race:
    """out: where rounds.json is kept, with the key. The first prompt is for warming up. A prompt that one of them
    refuses is no round of any. Raises EdgedError of a subject that does not answer."""
    turn_about = need_bytes(subjects) <= psutil.virtual_memory().available
    if not turn_about:
        tell(Moment(stage=stage, note="memory does not hold all models at once, so their times are measured one after "
                                      "the other; what else the machine does then counts"))
    rounds: dict[str, list[Timed | None]] = {}
    memory: dict[str, Memory] = {}
    for group in [subjects] if turn_about else [[subject] for subject in subjects]:
        told = partial(_told, tell, stage)
        for subject, known, kept in _run(group, prompts, max_tokens, told, BUDGET_S * len(group) / len(subjects)):
            rounds[subject.name], memory[subject.name] = known, kept
    # Of subjects that ran apart, one may have more of them.
    common = [None not in each for each in zip(*rounds.values(), strict=False)]
    made = Race(
        key=key, turn_about=turn_about, memory=memory,
        rounds={name: [one for one, by_all in zip(known, common, strict=False) if by_all and one is not None]
                for name, known in rounds.items()})
    files.publish_bytes(out / ROUNDS_FILE, msgspec.json.encode(made), out)
    return made


def need_bytes(subjects: Sequence[Subject]) -> int:
    """Of the processes that a race starts: weights in 32 bits, and the libraries."""
    return sum(4 * count_weights(subject.folder) + _RUNTIME_BYTES for subject in subjects
               if subject.kind == "hf" and subject.folder is not None)


def _told(tell: Tell, stage: str, what: str, fraction: float | None = None) -> None:
    tell(Moment(stage=stage, what=what, fraction=fraction))


def _run(
    subjects: Sequence[Subject], prompts: Sequence[Example], max_tokens: int, told: Callable[..., None],
    budget_s: float,
) -> list[tuple[Subject, list[Timed | None], Memory]]:
    """Of subjects that are in memory together. None of a prompt that one refused."""
    rounds: dict[str, list[Timed | None]] = {}
    with contextlib.ExitStack() as held:
        racers: list[tuple[Subject, Racer]] = []
        for subject in subjects:
            told(f"times: loading {subject.shown}")
            one = held.enter_context(racer(subject))
            _answered(one, prompts[0], max_tokens)
            racers.append((subject, one))
            rounds[subject.name] = []
        began_s = time.monotonic()
        measured = prompts[1:] or prompts
        for number, example in enumerate(measured):
            if number >= LEAST_ROUNDS and time.monotonic() - began_s > budget_s:
                break
            told("times", number / len(measured))
            for subject, one in _turned(racers, number):
                rounds[subject.name].append(_answered(one, example, max_tokens))
        return [(subject, rounds[subject.name], one.memory()) for subject, one in racers]


def speed_of(rounds: Sequence[Timed]) -> Speed:
    rates = [(one.tokens - 1) / (one.answer_s - one.first_token_s) for one in rounds
             if one.tokens is not None and one.tokens > 1 and one.answer_s > one.first_token_s]
    return Speed(
        rounds=len(rounds), first_token_s=_spread([one.first_token_s for one in rounds]),
        answer_s=_spread([one.answer_s for one in rounds]), tokens_per_s=_spread(rates) if rates else None,
        answer_tokens=_spread([float(one.tokens or 0) for one in rounds]))


def ratio(before: Sequence[float], after: Sequence[float], seed: int) -> Ratio:
    """Of times, round by round: the median of after / before, with the interval by the bootstrap over rounds."""
    ratios = np.asarray(after, dtype=np.float64) / np.asarray(before, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    medians: Floats = np.median(ratios[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Ratio(median=float(np.median(ratios)), low=float(low), high=float(high))


def _turned(racers: list[tuple[Subject, Racer]], number: int) -> list[tuple[Subject, Racer]]:
    first = number % len(racers)
    return racers[first:] + racers[:first]


def _answered(one: Racer, example: Example, max_tokens: int) -> Timed | None:
    """An answer without a token ends when it would have begun."""
    try:
        reply = one.answer(example, max_tokens)
    except (InvalidApiKey, ModelNotFound):
        raise
    except InvalidRequest:
        return None
    return Timed(first_token_s=reply.first_token_s if reply.first_token_s is not None else reply.seconds,
                 answer_s=reply.seconds, tokens=reply.completion_tokens)


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), [0.1, 0.5, 0.9])
    return Spread(median=float(median), low=float(low), high=float(high))


def _read(out: Path) -> Race | None:
    try:
        return msgspec.json.decode((out / ROUNDS_FILE).read_bytes(), type=Race)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
