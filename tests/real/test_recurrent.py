"""Models whose KV cannot go back, in llama.cpp: a state serves what begins with all of it, and nothing is wrong for
being shared. 32-bit weights, so that texts are exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edged.engines import load
from edged.engines.base import Generator, Logits, RowWork
from edged.worker.rows import Rows
from edged.worker.scheduler import Scheduler
from edged.worker.sequence import Sequence
from tests.real.conftest import spec
from tests.real.tiny_recurrent import make_recurrent

pytestmark = pytest.mark.real

SYSTEM = [(index * 37 + index * index) % 250 for index in range(160)]
#: Other shapes of a batch sum in another order; the hybrid's keys are in 16 bits.
NEAR = 0.05


@pytest.fixture(params=[False, True], ids=["mamba", "jamba"])
def generator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Generator]:
    file = make_recurrent(tmp_path / "tiny.gguf", hybrid=request.param)
    loaded = load(spec("llama", tmp_path, file.name, context=512, rows=4), lambda fraction: None)
    yield loaded.generator
    loaded.generator.close()


def last(generator: Generator, row: int, tokens: list[int]) -> Logits:
    logits: Logits = generator.step([RowWork(row, tokens, 1)])[0][-1].copy()
    return logits


def test_it_says_that_it_does_not_go_back_and_keeps_all_or_nothing(generator: Generator) -> None:
    assert not generator.caps.trims
    whole = last(generator, 0, SYSTEM)
    state = generator.stash(0)
    after = last(generator, 0, [65])
    assert generator.fork(0, 1, 100) == 0
    assert generator.fork(0, 1, len(SYSTEM) + 1) == len(SYSTEM) + 1
    assert np.abs(last(generator, 1, [66]) - last(generator, 0, [66])).max() < NEAR
    assert generator.trim(0, 100) == 0
    assert np.abs(last(generator, 0, SYSTEM) - whole).max() < NEAR
    assert generator.unstash(3, state) == len(SYSTEM)
    assert np.abs(last(generator, 3, [65]) - after).max() < NEAR


class Greedy:
    """The loop's part, with the likeliest token."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.rows = Rows(generator, ram_bytes=1 << 20)
        self.scheduler = Scheduler(generator.caps, self.rows, stash_limit_bytes=1 << 20)
        self.computed = 0

    def answers(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Of all prompts at once."""
        running = [Sequence(str(index), 0, str(index), list(prompt), 500) for index, prompt in enumerate(prompts)]
        for one in running:
            self.scheduler.submit(one)
        left = list(running)
        while left:
            self.scheduler.admit()
            for step in self.scheduler.plan(64):
                work = [RowWork(_row(piece.sequence), piece.sequence.tokens[piece.sequence.length:][:piece.count],
                                piece.logits) for piece in step]
                results = self.generator.step(work)
                self.computed += sum(piece.count for piece in step)
                self.scheduler.advance(step)
                for piece, logits in zip(step, results, strict=True):
                    if piece.logits:
                        piece.sequence.tokens.append(int(logits[-1].argmax()))
            for one in [one for one in left if len(one.tokens) >= one.prompt_length + tokens]:
                self.scheduler.finish(one)
                left.remove(one)
        while self.rows.tend():
            pass
        return [one.tokens[one.prompt_length:] for one in running]


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None
    return sequence.row


def test_what_is_shared_is_computed_once_and_no_text_changes(generator: Generator) -> None:
    """Together and one after another, a history that goes on, the same prompt again, and one that parts early."""
    prompts = [[*SYSTEM, 10 + number, *range(20, 50)] for number in range(4)]
    alone = []
    for prompt in prompts:
        alone += Greedy(generator).answers([prompt], 12)
        for row in range(generator.caps.rows):
            generator.trim(row, 0)
    assert len(set(map(tuple, alone))) > 1
    shared = Greedy(generator)
    assert shared.answers(prompts, 12) == alone
    assert shared.computed <= len(SYSTEM) + 4 * (31 + 12)
    before = shared.computed
    assert shared.answers(prompts[:1], 12) == alone[:1]
    assert shared.computed - before <= 12
    before = shared.computed
    further = [*prompts[1], *alone[1], 77, 78]
    [answer] = shared.answers([further], 6)
    assert shared.computed - before <= 3 + 6
    for row in range(generator.caps.rows):
        generator.trim(row, 0)
    assert Greedy(generator).answers([further], 6) == [answer]
