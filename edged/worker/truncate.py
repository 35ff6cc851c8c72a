"""Which tokens may be drawn: top-k, typical-p, top-p and min-p, in this order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.types import SamplingParams
from edged.worker.scratch import scratch
from edged.worker.topk import top_ids

#: How many of the first tokens are looked at before the whole vocabulary is counted; answers rarely need the second.
_FIRST_LOOKS = (256, 4096)
#: Of these classes, from the likeliest tokens to those that float32 has no weight for, one is sorted.
_CLASSES = 4096
_RANGE = 104.0


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

    def kept(self, scaled: NDArray[np.float32]) -> NDArray[np.intp]:
        """Ids of the tokens left, ascending. scaled: logits over temperature, shape [vocab], the greatest is 0."""
        left = _Left(scaled)
        if 0 < self.top_k < len(scaled):
            left.narrow(np.sort(top_ids(scaled, self.top_k)))
        if self.typical_p < 1:
            left.narrow(_typical(left.scaled, self.typical_p))
        if self.top_p < 1:
            weights = np.exp(left.scaled, out=scratch.weights(len(left.scaled)))
            left.narrow(_smallest_set(left.scaled, weights, self.top_p))
        if self.min_p > 0:
            left.narrow(np.flatnonzero(left.scaled >= left.scaled.max() + math.log(min(self.min_p, 1.0))))
        return left.ids


class _Left:
    """The tokens left so far. Ids stay ascending, so that position order is id order for every filter."""

    def __init__(self, scaled: NDArray[np.float32]) -> None:
        self._whole = scaled
        self._ids: NDArray[np.intp] | None = None
        self.scaled = scaled

    @property
    def ids(self) -> NDArray[np.intp]:
        return self._ids if self._ids is not None else np.arange(len(self._whole))

    def narrow(self, positions: NDArray[np.intp]) -> None:
        """positions: ascending."""
        self._ids = positions if self._ids is None else self._ids[positions]
        self.scaled = self._whole[self._ids]


def _smallest_set(
    order: NDArray[np.float32], weights: NDArray[np.float32], share: float
) -> NDArray[np.intp]:
    """The positions, ascending, of the fewest first ones by descending `order` that hold `share` of the sum of
    weights; of equal ones the lower position comes first."""
    mass = share * _sum(weights)
    for count in (look for look in _FIRST_LOOKS if look < len(order)):
        positions = top_ids(order, count)
        held = np.cumsum(weights[positions], dtype=np.float64)
        if held[-1] >= mass:
            return np.sort(positions[: _cut(held, mass)])
    return _counted(order, weights, mass)


def _counted(order: NDArray[np.float32], weights: NDArray[np.float32], mass: float) -> NDArray[np.intp]:
    """Without sorting all: positions fall into classes of near `order`, the greatest first, and only the class within
    which `mass` is reached is sorted."""
    highest = order.max()
    span = min(float(highest - order.min()), _RANGE)
    if len(order) < 2 * _CLASSES or span <= 0:
        positions = top_ids(order, len(order))
        return np.sort(positions[: _cut(np.cumsum(weights[positions], dtype=np.float64), mass)])
    below = np.minimum((highest - order) * np.float32((_CLASSES - 1) / span), np.float32(_CLASSES - 1))
    classes = below.astype(np.intp)
    held = np.cumsum(np.bincount(classes, weights, _CLASSES))
    last = min(int(np.searchsorted(held, mass, side="left")), int(classes.max()))
    before = held[last - 1] if last else 0.0
    within = np.flatnonzero(classes == last)
    within = within[top_ids(order[within], len(within))]
    cut = _cut(np.cumsum(weights[within], dtype=np.float64), mass - before)
    first = classes < last
    first[within[:cut]] = True
    return np.flatnonzero(first)


def _cut(held: NDArray[np.float64], mass: float) -> int:
    """How many of the first hold `mass`."""
    return int(np.searchsorted(held, mass, side="left")) + 1


def _sum(weights: NDArray[np.float32]) -> float:
    """Blocks are added in pairs by numpy, and their sums in 64 bits: half the time of adding all in 64 bits."""
    whole = len(weights) // 256 * 256
    blocks = weights[:whole].reshape(-1, 256).sum(axis=1)
    return float(blocks.sum(dtype=np.float64) + weights[whole:].sum(dtype=np.float64))


def _typical(scaled: NDArray[np.float32], share: float) -> NDArray[np.intp]:
    weights = np.exp(scaled, out=scratch.weights(len(scaled)))
    total = _sum(weights)
    # A weight of zero times a logit of -inf would be NaN; -200 is beyond what a float32 weight can hold.
    bounded = np.maximum(scaled, np.float32(-200))
    mean = float(np.dot(weights, bounded)) / total
    # Surprise is log(total) - scaled and entropy log(total) - mean: their distance needs neither.
    return _smallest_set(-np.abs(bounded - np.float32(mean)), weights, share)
