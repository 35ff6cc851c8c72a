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

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.engines.base import EngineError
from edged.types import SamplingParams
from edged.worker.adjust import Adjustments
from edged.worker.scratch import scratch
from edged.worker.topk import top_ids
from edged.worker.truncate import Truncation

#: Below it sampling is greedy: the second token's probability would be under e^-100 for logits 0.001 apart.
MIN_TEMPERATURE = 1e-5
_BLOCK = 256
#: Where less than one token of so many is allowed, those are taken out of the vocabulary before anything is computed.
_FEW = 8
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
            adjusted = scratch.adjusted(len(logits))
            np.copyto(adjusted, logits)
            self._adjustments.apply(adjusted)
            logits = adjusted
        if allowed is None:
            return self._choose(logits, position)
        if np.count_nonzero(allowed) * _FEW < len(logits):
            ids = np.flatnonzero(allowed)
            return int(ids[self._choose(logits[ids], position)])
        masked = scratch.masked(len(logits))
        masked.fill(-np.inf)
        np.copyto(masked, logits, where=allowed)
        return self._choose(masked, position)

    def accept(self, token: int) -> None:
        """The token was generated (drawn or forced): it counts for the penalties from now on."""
        self._adjustments.accept(token)

    def _choose(self, logits: NDArray[np.float32], position: int) -> int:
        """Index of the one drawn. logits: of tokens in the order of their ids, not always of all."""
        best = int(logits.argmax()) if len(logits) else None
        if best is None:
            raise EngineError("no token can be chosen: none is allowed")
        peak = logits[best]
        if not np.isfinite(peak):
            raise EngineError(f"no token can be chosen: the greatest logit is {peak}")
        if self._greedy:
            return best
        if 0 < self._truncation.top_k < len(logits):
            # The first of all filters, and scaling changes no order: the rest of the vocabulary need not be scaled.
            ids = np.sort(top_ids(logits, self._truncation.top_k))
            return int(ids[self._draw(logits[ids], peak, position)])
        return self._draw(logits, peak, position)

    def _draw(self, logits: NDArray[np.float32], peak: np.float32, position: int) -> int:
        share = _uniform(self._key, position)
        buffer = scratch.padded(len(logits), _BLOCK)
        scaled = buffer[: len(logits)]
        with np.errstate(over="ignore", under="ignore"):
            np.subtract(logits, peak, out=scaled)
            if self._temperature != 1:
                np.multiply(scaled, np.float32(1 / self._temperature), out=scaled)
            if self._truncation.off:
                np.exp(scaled, out=scaled)
                return _drawn_whole(buffer, share)
            left = self._truncation.left(scaled)
            if (wide := left.wide) is not None:
                weights = left.weights if left.weights is not None else np.exp(scaled, out=scaled)
                np.multiply(weights, wide, out=scaled)
                return _drawn_whole(buffer, share)
            kept = left.ids
            return int(kept[_drawn(np.exp(scaled[kept].astype(np.float64)), share)])


def _uniform(key: int, position: int) -> float:
    """In [0, 1), 53 bits."""
    return int(np.random.Philox(key=key, counter=position).random_raw() >> 11) * 2.0**-53


def _drawn(weights: NDArray[np.float64], share: float) -> int:
    """Index of the weight in which `share` of the sum falls; never one of weight 0."""
    sums = np.cumsum(weights)
    return _place(sums, share * sums[-1])


def _drawn_whole(weights: NDArray[np.float32], share: float) -> int:
    """The same over a whole vocabulary, whose length is a multiple of _BLOCK: first the block, then within it."""
    blocks = weights.reshape(-1, _BLOCK)
    sums = np.cumsum(np.einsum("ij->i", blocks), dtype=np.float64)
    wanted = share * sums[-1]
    block = _place(sums, wanted)
    before = sums[block - 1] if block else 0.0
    return block * _BLOCK + _place(np.cumsum(blocks[block], dtype=np.float64), wanted - before)


def _place(sums: NDArray[np.float64], wanted: float) -> int:
    """The first index whose sum is over `wanted`. Rounding can put `wanted` at or past the end: then it is the last
    one that added anything."""
    return int(min(np.searchsorted(sums, wanted, side="right"), np.searchsorted(sums, sums[-1], side="left")))
