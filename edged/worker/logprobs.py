"""Log-probabilities of one step: natural logarithms of the softmax of the raw logits, before any sampling parameter.
Under a constraint those of the tokens that it allows, so that they add up to one; a token that it forces has 0."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edged.engines.base import EngineError
from edged.worker.topk import top_ids

#: Stands for log 0, which JSON cannot say; OpenAI's API documents this value for very unlikely tokens.
IMPOSSIBLE = -9999.0
#: So many numbers in 64 bits stay in a core's cache.
_BLOCK = 16_384


def token_logprobs(
    logits: NDArray[np.float32], chosen: int, top: int
) -> tuple[float, list[tuple[int, float]]]:
    """The chosen token's log-probability, and the `top` most likely tokens with theirs, most likely first, equal ones
    by lowest id, without those that cannot come. logits: shape [vocab], left as they are. Raises EngineError for logits
    that are no distribution."""
    peak = logits.max()
    if not np.isfinite(peak):
        raise EngineError(f"logits are no distribution: the greatest is {peak}")
    log_sum = float(peak) + math.log(sum(
        float(np.exp(logits[first:first + _BLOCK].astype(np.float64) - float(peak)).sum())
        for first in range(0, len(logits), _BLOCK)))
    likeliest = [int(token) for token in top_ids(logits, top) if logits[token] > -np.inf] if top else []
    return _less(logits, chosen, log_sum), [(token, _less(logits, token, log_sum)) for token in likeliest]


def _less(logits: NDArray[np.float32], token: int, log_sum: float) -> float:
    return max(float(logits[token]) - log_sum, IMPOSSIBLE)
