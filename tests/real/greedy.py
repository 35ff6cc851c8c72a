"""Scheduler and rows over a real engine, without text: each sequence goes on with the likeliest token."""

from __future__ import annotations

from edged.engines.base import Generator, RowWork
from edged.worker.rows import Rows
from edged.worker.scheduler import Scheduler
from edged.worker.sequence import Sequence


class Greedy:
    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.rows = Rows(generator, ram_bytes=1 << 28)
        self.scheduler = Scheduler(generator.caps, self.rows, stash_limit_bytes=1 << 28)
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
