"""The most likely tokens of a vocabulary, without sorting it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_ids(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the `count` greatest of `values` (shape [size], no NaN), greatest first, equal ones by lowest index.

    The maxima of disjoint groups are themselves values, so the count-th greatest of them bounds the count-th greatest
    value from below; what reaches that bound is a little more than `count` and is all that gets sorted.
    """
    size = len(values)
    if count >= size:
        return np.argsort(-values, kind="stable")
    bound = group_maxima(values, count).min()
    ids = np.flatnonzero(values >= bound)
    return ids[np.argsort(-values[ids], kind="stable")[:count]]


def group_maxima(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The `count` greatest of the maxima of disjoint groups of `values`, in no order: nearly the greatest of all where
    these do not stand together. count: less than the size."""
    size = len(values)
    groups = max(4 * count, 256)
    members = size // groups
    candidates = values[: members * groups].reshape(members, groups).max(axis=0) if members > 1 else values
    return np.partition(candidates, len(candidates) - count)[len(candidates) - count:]
