"""Models whose KV cannot go back, in llama.cpp: a state serves what begins with all of it, and nothing is wrong for
being shared. 32-bit weights, so that texts are exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edged.engines import load
from edged.engines.base import Generator, Logits, RowWork
from tests.real.conftest import spec
from tests.real.greedy import Greedy
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
