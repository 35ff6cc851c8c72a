"""One vector from the vectors of an input's tokens, as sentence-transformers does it (models/Pooling.py). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engines.base import Vectors

#: float32, shape [inputs, tokens, width].
Hidden = NDArray[np.float32]
#: 1 for tokens, 0 for padding, which is on the right; int64, shape [inputs, tokens].
Mask = NDArray[np.int64]


def _cls(hidden: Hidden, mask: Mask) -> Vectors:
    first: Vectors = hidden[:, 0]
    return first


def _max(hidden: Hidden, mask: Mask) -> Vectors:
    largest: Vectors = np.where(mask[:, :, None] > 0, hidden, -np.inf).max(axis=1)
    return largest


def _mean(hidden: Hidden, mask: Mask) -> Vectors:
    return _divided(_sum(hidden, mask), mask.sum(axis=1))


def _mean_sqrt_len(hidden: Hidden, mask: Mask) -> Vectors:
    return _divided(_sum(hidden, mask), np.sqrt(mask.sum(axis=1)))


def _weightedmean(hidden: Hidden, mask: Mask) -> Vectors:
    """Weights grow with the position (arXiv:2202.08904)."""
    weights = mask * np.arange(1, mask.shape[1] + 1)
    return _divided(_sum(hidden, weights), weights.sum(axis=1))


def _lasttoken(hidden: Hidden, mask: Mask) -> Vectors:
    last: Vectors = hidden[np.arange(len(hidden)), mask.sum(axis=1) - 1]
    return last


def _sum(hidden: Hidden, weights: Mask) -> Vectors:
    total: Vectors = np.einsum("itw,it->iw", hidden, weights.astype(np.float32))
    return total


def _divided(vectors: Vectors, by: NDArray[Any]) -> Vectors:
    result: Vectors = (vectors / by[:, None]).astype(np.float32)
    return result


_POOL: dict[str, Callable[[Hidden, Mask], Vectors]] = {
    "cls": _cls, "max": _max, "mean": _mean, "mean_sqrt_len": _mean_sqrt_len, "weightedmean": _weightedmean,
    "lasttoken": _lasttoken,
}
#: In the order in which several are concatenated.
MODES = tuple(_POOL)


def pool(hidden: Hidden, mask: Mask, modes: Sequence[str]) -> Vectors:
    """float32, shape [inputs, width · modes]."""
    parts = [_POOL[mode](hidden, mask) for mode in MODES if mode in modes]
    return np.concatenate(parts, axis=1).astype(np.float32, copy=False)
