"""How sure figures are: the bootstrap over test items (Efron 1979), paired (Koehn 2004).

Every metric is a function of sums over items (`training.evaluate.metrics`). A resample draws as many items as there
are, with replacement, so it is a vector of counts, and the sums of all resamples are one product of matrices. All
subjects are resampled by the same counts: the difference of two subjects is that on the same items, and its interval is
as much narrower as their answers go together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
#: Resamples that are worked on at once: a block of them for 10,000 items is 20 MB.
_BLOCK = 256


def resampled(statistics: Sequence[Floats], resamples: int, seed: int) -> list[Floats]:
    """statistics: each [items, columns], over the same items in the same order. Returns for each the sums of each
    resample, [resamples, columns]. The same seed draws the same items, whatever the statistics."""
    widths = [one.shape[1] for one in statistics]
    together = np.concatenate(statistics, axis=1)
    items = len(together)
    generator = np.random.default_rng([seed, items])
    sums = np.empty((resamples, together.shape[1]))
    for first in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - first)
        drawn = generator.integers(items, size=(count, items)) + np.arange(count)[:, None] * items
        counts = np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)
        sums[first:first + count] = counts @ together
    return np.split(sums, np.cumsum(widths)[:-1], axis=1)


def interval(figures: Floats) -> tuple[float, float] | None:
    """figures: [resamples]. The central LEVEL of them (the percentile interval); None where half of them or more are
    undefined, as of a class that hardly any item has. Undefined ones (NaN) are left out."""
    known = figures[~np.isnan(figures)]
    if 2 * len(known) <= len(figures):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
