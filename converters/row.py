"""One sequence on one engine: row 0, and the tokens it holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edged.engines.base import Generator, Logits, RowWork


class Row:
    """The only user of its engine, so that no other row has a part in what it computes."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._tokens: list[int] = []

    def hold(self, tokens: Sequence[int]) -> None:
        """Make the row hold exactly these, computing what it does not have yet."""
        common = 0
        for mine, other in zip(self._tokens, tokens, strict=False):
            if mine != other:
                break
            common += 1
        if common < len(self._tokens):
            del self._tokens[self._generator.trim(0, common):]
        most = self._generator.caps.step_tokens
        for first in range(len(self._tokens), len(tokens), most):
            part = list(tokens[first:first + most])
            self._generator.step([RowWork(0, part, 0)])
            self._tokens += part

    def append(self, tokens: Sequence[int]) -> Logits:
        """Logits of each of these tokens, shape [len(tokens), vocabulary]; valid until the next call. A graph that
        gives them for the last position only takes the tokens one by one."""
        self._tokens += tokens
        if self._generator.caps.all_logits:
            return self._generator.step([RowWork(0, list(tokens), len(tokens))])[0]
        return np.concatenate([self._generator.step([RowWork(0, [token], 1)])[0].copy() for token in tokens])
