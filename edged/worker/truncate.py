"""Which tokens may be drawn: top-k, typical-p, top-p and min-p, in this order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.types import SamplingParams
from edged.worker.nucleus import Known, first_holding, mass_of
from edged.worker.scratch import scratch
from edged.worker.topk import group_maxima, top_ids

#: So many of the likeliest tokens are looked at before the whole vocabulary: answers rarely need more.
_FIRST_LOOK = 256
#: More tokens than that are drawn from where they stand in the vocabulary, not gathered.
WIDE = 4096
#: Far below the logit over temperature that float32 has a weight for.
_NOWHERE = np.float32(-200)
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Each filter sees what the one before left, renormalised, as in llama.cpp and transformers.

    top_k: this many most likely tokens; 0 is off. typical_p: tokens whose surprise is nearest to the entropy, up to
    this mass (arXiv:2202.00666). top_p: the fewest most likely tokens that hold this mass (arXiv:1904.09751). min_p:
    tokens at least this many times as likely as the likeliest left (arXiv:2407.01082). At least one token is always
    left. Among equally likely tokens the lower id comes first.
    """

    top_k: int = 0
    typical_p: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0

    @classmethod
    def of(cls, params: SamplingParams) -> Truncation:
        return cls(
            top_k=params.top_k or 0,
            typical_p=1.0 if params.typical_p is None else params.typical_p,
            top_p=1.0 if params.top_p is None else params.top_p,
            min_p=params.min_p or 0.0,
        )

    @property
    def off(self) -> bool:
        return self.top_k <= 0 and self.typical_p >= 1 and self.top_p >= 1 and self.min_p <= 0

    def left(self, scaled: NDArray[np.float32]) -> Left:
        """scaled: logits over temperature, shape [vocab], the greatest is 0; unchanged while the result is in use."""
        left = Left(scaled)
        if 0 < self.top_k < len(scaled):
            left.narrow(np.sort(top_ids(scaled, self.top_k)))
        if self.typical_p < 1:
            left.mask(_typical(left.scaled, left.weighed(), self.typical_p))
        # Neither of the two below takes the likeliest away, so that both may be told of what is left by now.
        least = float(left.scaled.max()) + math.log(min(self.min_p, 1.0)) if self.min_p > 0 else -math.inf
        chosen: NDArray[np.bool_] | None = None
        if self.top_p < 1:
            chosen = _top(left.scaled, left.weighed(), self.top_p)
        if self.min_p > 0:
            over = left.scaled >= least
            chosen = over if chosen is None else np.logical_and(chosen, over, out=over)
        if chosen is not None:
            left.mask(chosen)
        return left

    def kept(self, scaled: NDArray[np.float32]) -> NDArray[np.intp]:
        """Ids of the tokens left, ascending. scaled: as of `left`."""
        return self.left(scaled).ids


class Left:
    """The tokens left so far. Ids stay ascending, so that position order is id order for every filter."""

    def __init__(self, scaled: NDArray[np.float32]) -> None:
        #: exp of `scaled` of the whole vocabulary, where a filter had to know it; in scratch.weights.
        self.weights: NDArray[np.float32] | None = None
        self._whole = self._scaled = scaled
        self._ids: NDArray[np.intp] | None = None
        #: Of those that `_scaled` has, the ones left; None for all.
        self._chosen: NDArray[np.bool_] | None = None

    @property
    def scaled(self) -> NDArray[np.float32]:
        self._gather()
        return self._scaled

    @property
    def ids(self) -> NDArray[np.intp]:
        self._gather()
        return self._ids if self._ids is not None else np.arange(len(self._whole))

    @property
    def wide(self) -> NDArray[np.bool_] | None:
        """The tokens left of the whole vocabulary, shape [vocab], where they are many; else `ids` are to be asked."""
        many = self._ids is None and self._chosen is not None and np.count_nonzero(self._chosen) > WIDE
        return self._chosen if many else None

    def weighed(self) -> NDArray[np.float32]:
        """exp of `scaled`, as long as it."""
        weights = np.exp(self.scaled, out=scratch.weights(len(self.scaled)))
        self.weights = weights if self._ids is None else None
        return weights

    def narrow(self, positions: NDArray[np.intp]) -> None:
        """positions: ascending."""
        self._gather()
        self._ids = positions if self._ids is None else self._ids[positions]
        self._scaled = self._whole[self._ids]

    def mask(self, chosen: NDArray[np.bool_]) -> None:
        """chosen: among `scaled`."""
        self._chosen = chosen

    def _gather(self) -> None:
        if self._chosen is not None:
            positions, self._chosen = np.flatnonzero(self._chosen), None
            self.narrow(positions)


def _top(scaled: NDArray[np.float32], weights: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    total = mass_of(weights)
    mass = share * total
    if len(scaled) <= 2 * _FIRST_LOOK:
        return first_holding(scaled, weights, mass, total=total)
    likeliest = group_maxima(scaled, _FIRST_LOOK)
    known = np.exp(likeliest)
    if float(known.sum(dtype=np.float64)) < mass:
        return first_holding(scaled, weights, mass, total=total, known=Known(likeliest, known, float(known.min())))
    ids = np.flatnonzero(scaled >= likeliest.min())
    chosen = np.zeros(len(scaled), np.bool_)
    chosen[ids] = first_holding(scaled[ids], weights[ids], mass, total=total)
    return chosen


def _typical(scaled: NDArray[np.float32], weights: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    total = mass_of(weights)
    # A weight of zero times a logit of -inf would be NaN.
    bounded = scaled
    with np.errstate(invalid="ignore"):
        mean = np.float32(np.dot(weights, scaled) / total)
    if np.isnan(mean):
        bounded = np.maximum(scaled, _NOWHERE)
        mean = np.float32(np.dot(weights, bounded) / total)
    # Surprise is log(total) - scaled and entropy log(total) - mean: their distance needs neither.
    order = np.subtract(bounded, mean, out=scratch.order(len(scaled)))
    # Minus the distance, by the sign's bit alone.
    np.bitwise_or(order.view(np.uint32), _SIGN, out=order.view(np.uint32))
    known = None
    if len(scaled) > 2 * _FIRST_LOOK:
        least = group_maxima(scaled, _FIRST_LOOK).min()
        likeliest = np.flatnonzero(scaled >= least)
        # Of many equal ones a sample misses none.
        if len(likeliest) < 4 * _FIRST_LOOK:
            known = Known(order[likeliest], weights[likeliest], float(np.exp(least)))
    return first_holding(order, weights, share * total, total=total, known=known)
