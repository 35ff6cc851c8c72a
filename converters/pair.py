"""Reference and result side by side in one process, each with one row, fed with the same tokens.

A piece of the text goes through both, its logits are compared, and the next piece overwrites them: logits of a large
vocabulary never exist for more than a piece.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from msgspec import Struct

from converters.calibration import SHIPPED, Passage, Text
from converters.divergence import NoDistribution, Sums, compare
from converters.encoder import Encoder
from converters.row import Row
from converters.tasks import Prepared, answered_right
from converters.windows import LONGEST, windows
from edged.engines.base import EngineError, Generator
from edged.errors import ConfigError, Conflict, DeadlineExceeded, Internal, InvalidRequest

#: Called with 0 … 1, and what was done so far in words.
Progress = Callable[[float, str | None], None]

#: Figures of fewer positions say nothing.
FEWEST_POSITIONS = 256
#: Tokens of a piece at most, and at least; between them as many as have PIECE_BYTES of logits in each model.
PIECE_TOKENS = 128
PIECE_FEWEST = 16
PIECE_BYTES = 64 << 20


class Right(Struct, frozen=True):
    """Tasks answered by both models, and how many each answered right."""

    tasks: int = 0
    reference: int = 0
    result: int = 0


class Pair:
    """The engines and the encoder belong to the caller."""

    def __init__(self, reference: Generator, result: Generator, encoder: Encoder) -> None:
        self._vocabs = (reference.vocab, result.vocab)
        self._rows = (Row(reference), Row(result))
        self._encoder = encoder
        self.context = min(reference.caps.context, result.caps.context)
        self._piece = min(PIECE_TOKENS, reference.caps.step_tokens, result.caps.step_tokens,
                          max(PIECE_FEWEST, PIECE_BYTES // (4 * result.vocab.size)))

    def compare(self, text: Text, positions: int, seconds: float, progress: Progress) -> Sums:
        """Stops at the first border of a window after `seconds`. Raises as `converters.gate.measure` says."""
        began_s = time.monotonic()
        sums, fewest = Sums(), min(FEWEST_POSITIONS, positions)
        for window in windows(len(text.passages), lambda index: self._encode(text, text.passages[index]),
                              bos=self._vocabs[1].bos, longest=min(LONGEST, self.context - 1), positions=positions):
            spent_s = time.monotonic() - began_s
            if spent_s > seconds:
                if sums.positions >= fewest:
                    return sums
                raise DeadlineExceeded(
                    f"only {sums.positions} tokens were compared in {spent_s:.0f} seconds, and figures of fewer than "
                    f"{fewest} say nothing; stop what else keeps this machine busy, and start again")
            with _failures(f"after {sums.positions:,} tokens of the text"):
                sums += self._window(window)
            done = max(sums.positions / positions, spent_s / seconds)
            progress(min(done, 1.0), f"{sums.positions:,} tokens compared")
        if sums.positions < fewest:
            raise ConfigError(f"has only {sums.positions} tokens to compare, and figures of fewer than {fewest} say "
                              "nothing; give a longer text", file=str(text.path))
        return sums

    def answer(self, prepared: Sequence[Prepared], seconds: float, progress: Progress) -> Right:
        """Each task by both models; stops at the first border of a task after `seconds`, but not before the first."""
        began_s = time.monotonic()
        done, right = 0, [0, 0]
        for item in prepared:
            if done and time.monotonic() - began_s > seconds:
                break
            for side, (row, vocab) in enumerate(zip(self._rows, self._vocabs, strict=True)):
                with _failures(f"in task {done + 1}"):
                    right[side] += answered_right(item, row, vocab)
            done += 1
            progress(done / len(prepared), f"{done:,} of {len(prepared):,} tasks")
        return Right(done, *right)

    def _encode(self, text: Text, passage: Passage) -> list[int]:
        if passage.messages is None:
            return self._encoder.text(passage.text or "")
        try:
            return self._encoder.chat(passage.messages, answers=False)
        except Conflict:
            raise
        except InvalidRequest as error:
            if text.path == SHIPPED:
                # A template for something else than talk: the words are as good without it.
                return self._encoder.text(passage.plain())
            raise ConfigError(error.message, file=str(text.path), line=passage.line) from None

    def _window(self, tokens: list[int]) -> Sums:
        reference, result = self._rows
        reference.hold(())
        result.hold(())
        sums = Sums()
        for first in range(0, len(tokens) - 1, self._piece):
            last = min(first + self._piece, len(tokens) - 1)
            part, targets = tokens[first:last], np.array(tokens[first + 1:last + 1])
            sums += compare(reference.append(part), result.append(part), targets)
        return sums


@contextlib.contextmanager
def _failures(where: str) -> Iterator[None]:
    try:
        yield
    except NoDistribution as error:
        raise Internal(f"a model gives logits that are no numbers ({error}, {where}): it is damaged, or its precision "
                       "does not do on this device; convert it again, or with another recipe") from error
    except EngineError as error:
        raise Internal(f"an engine failed {where}: {error}") from error
