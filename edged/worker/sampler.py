"""From logits to one token.

Order: logit bias and penalties, the mask of a constraint, temperature, top-k, typical-p, top-p, min-p, draw.
Temperature comes first among the filters, as in vLLM and transformers (llama.cpp's server has it last), because OpenAI
documents `top_p` as the mass of the distribution that is drawn from.

A draw depends on (seed, choice, position) and the logits only: one 64-bit output of Philox-4x64 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"), key (seed, choice), counter (position). Rows that share a step, and
steps that are repeated after a preemption, therefore draw the same. The token is found by its place in the cumulated
probabilities in id order, so that two nearly equal logits that change places leave most draws as they are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.engines.base import EngineError
from edged.types import SamplingParams
from edged.worker.adjust import Adjustments
from edged.worker.truncate import Truncation

#: Below it sampling is greedy: the second token's probability would be under e^-100 for logits 0.001 apart.
MIN_TEMPERATURE = 1e-5
_BLOCK = 256
_MASK_64 = (1 << 64) - 1


class Sampler:
    """One for each choice of a request; owns the choice's token counts.

    A field of params that is None is off (temperature: 1). seed: any int, taken modulo 2^64. prompt: its tokens
    count for the repetition penalty. Raises InvalidRequest for a logit_bias outside the vocabulary.
    """

    def __init__(
        self, params: SamplingParams, *, seed: int, choice: int, prompt: Sequence[int], vocab_size: int
    ) -> None:
        self._adjustments = Adjustments(params, prompt, vocab_size)
        self._temperature = 1.0 if params.temperature is None else params.temperature
        self._truncation = Truncation.of(params)
        self._greedy = self._temperature < MIN_TEMPERATURE or self._truncation.top_k == 1
        self._key = (choice << 64) | (seed & _MASK_64)

    def sample(self, logits: NDArray[np.float32], position: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """logits: shape [vocab], left as they are; -inf is a token that may not come. position: of the token among the
        generated ones, from 0. allowed: shape [vocab], the tokens that may come, whatever their bias; None for all.
        Raises EngineError where no token can be chosen: NaN, +inf or nothing but -inf."""
        if not self._adjustments.off:
            adjusted = _scratch.adjusted(len(logits))
            np.copyto(adjusted, logits)
            self._adjustments.apply(adjusted)
            logits = adjusted
        if allowed is not None:
            logits = np.where(allowed, logits, np.float32(-np.inf))
        best = int(logits.argmax())
        peak = logits[best]
        if not np.isfinite(peak):
            raise EngineError(f"no token can be chosen: the greatest logit is {peak}")
        if self._greedy:
            return best
        share = _uniform(self._key, position)
        buffer = _scratch.padded(len(logits))
        scaled = buffer[: len(logits)]
        with np.errstate(over="ignore", under="ignore"):
            np.subtract(logits, peak, out=scaled)
            np.multiply(scaled, np.float32(1 / self._temperature), out=scaled)
            if self._truncation.off:
                np.exp(scaled, out=scaled)
                return _draw_whole(buffer, share)
            kept = self._truncation.kept(scaled)
            return int(kept[_draw(np.exp(scaled[kept].astype(np.float64)), share)])

    def accept(self, token: int) -> None:
        """The token was generated (drawn or forced): it counts for the penalties from now on."""
        self._adjustments.accept(token)


def _uniform(key: int, position: int) -> float:
    """In [0, 1), 53 bits."""
    return int(np.random.Philox(key=key, counter=position).random_raw() >> 11) * 2.0**-53


def _draw(weights: NDArray[np.float64], share: float) -> int:
    """Index of the weight in which `share` of the sum falls; never one of weight 0."""
    sums = np.cumsum(weights)
    return _place(sums, share * sums[-1])


def _draw_whole(weights: NDArray[np.float32], share: float) -> int:
    """The same over a whole vocabulary, whose length is a multiple of _BLOCK: first the block, then within it."""
    blocks = weights.reshape(-1, _BLOCK)
    sums = np.cumsum(blocks.sum(axis=1), dtype=np.float64)
    wanted = share * sums[-1]
    block = _place(sums, wanted)
    before = sums[block - 1] if block else 0.0
    return block * _BLOCK + _place(np.cumsum(blocks[block], dtype=np.float64), wanted - before)


def _place(sums: NDArray[np.float64], wanted: float) -> int:
    """The first index whose sum is over `wanted`. Rounding can put `wanted` at or past the end: then it is the last
    one that added anything."""
    return int(min(np.searchsorted(sums, wanted, side="right"), np.searchsorted(sums, sums[-1], side="left")))


class _Scratch(threading.local):
    """Buffers of one thread, kept between steps: pages given back to the system cost more than the arithmetic."""

    def __init__(self) -> None:
        self._adjusted = np.empty(0, np.float32)
        self._padded = np.empty(0, np.float32)

    def adjusted(self, size: int) -> NDArray[np.float32]:
        if len(self._adjusted) != size:
            self._adjusted = np.empty(size, np.float32)
        return self._adjusted

    def padded(self, size: int) -> NDArray[np.float32]:
        """A multiple of _BLOCK long; 0 from `size` on."""
        length = math.ceil(size / _BLOCK) * _BLOCK
        if len(self._padded) != length:
            self._padded = np.empty(length, np.float32)
        self._padded[size:] = 0
        return self._padded


_scratch = _Scratch()
