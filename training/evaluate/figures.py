"""Figures of items, and the differences between two subjects on the same items, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.bootstrap import LEVEL, Floats, interval, resampled
from training.evaluate.choice import Chosen
from training.evaluate.items import Item
from training.evaluate.metrics import MetricKind, kinds, one_by_one
from training.evaluate.results import Difference, Figure, Verdict


@dataclass(frozen=True, slots=True)
class _Measured:
    """One metric of one subject. resamples: its figure of each resample; items: its figure of each item."""

    value: float
    resamples: Floats
    items: list[float | None]


def figures_of(items: Sequence[Item], chosen: Chosen, resamples: int, seed: int) -> dict[str, Figure]:
    """By the names of metrics."""
    metrics = kinds(chosen.metrics)
    measured = _measured([(kind, kind.statistics(items, chosen.labels)) for kind in metrics], resamples, seed)
    return {kind.name: _figure(kind, one) for kind, one in zip(metrics, measured, strict=True)}


def differences(
    subjects: Sequence[Sequence[Item]], chosen: Chosen, *, resamples: int, seed: int, tolerance: float,
) -> dict[tuple[int, int], dict[str, Difference]]:
    """subjects: the items of each, the same examples in the same order. Returns for every two of them, the earlier one
    first, the differences by metric, each of the items that could be measured of both."""
    metrics = kinds(chosen.metrics)
    pairs = [(first, second) for second in range(len(subjects)) for first in range(second)]
    rows = [[kind.statistics(items, chosen.labels) for kind in metrics] for items in subjects]
    known = [[np.array([kind.known(item) for item in items], dtype=bool) for kind in metrics] for items in subjects]
    # Most pairs have all items in common: what was resampled for one of them serves the others.
    wanted: dict[tuple[int, int, bytes], tuple[MetricKind, Floats]] = {}
    common = {}
    for pair in pairs:
        for number, kind in enumerate(metrics):
            both = known[pair[0]][number] & known[pair[1]][number]
            common[pair, number] = both.tobytes()
            for subject in pair:
                wanted.setdefault((subject, number, both.tobytes()), (kind, rows[subject][number] * both[:, None]))
    measured = dict(zip(wanted, _measured(list(wanted.values()), resamples, seed), strict=True))
    found: dict[tuple[int, int], dict[str, Difference]] = {}
    for first, second in pairs:
        found[first, second] = {}
        for number, kind in enumerate(metrics):
            both = common[(first, second), number]
            found[first, second][kind.name] = _difference(
                kind, measured[first, number, both], measured[second, number, both], tolerance)
    return found


def verdict_of(points: float, low: float, tolerance: float) -> Verdict:
    """low: the lower end of the interval of `points`."""
    if low > 0:
        return "gained"
    if low >= -tolerance:
        return "kept"
    return "lost" if points < -tolerance else "unsure"


def unseen_points(items: int) -> float:
    """How many points may be lost though none of so many items changed: the upper end of Clopper and Pearson's exact
    interval (1934) of a share that was seen 0 times."""
    return float(100 * (1 - ((1 - LEVEL) / 2) ** (1 / items)))


def _measured(
    statistics: Sequence[tuple[MetricKind, Floats]], resamples: int, seed: int,
) -> list[_Measured]:
    if not statistics:
        return []
    sums = resampled([rows for _, rows in statistics], resamples, seed)
    return [_Measured(float(kind.figure(rows.sum(axis=0))), kind.figure(drawn), one_by_one(kind, rows))
            for (kind, rows), drawn in zip(statistics, sums, strict=True)]


def _figure(kind: MetricKind, one: _Measured) -> Figure:
    """A share of none or of all, of which every resample says the same, has the exact interval."""
    count = sum(score is not None for score in one.items)
    low, high = interval(one.resamples) or (None, None)
    if kind.unit == "%" and count and low == high == 0:
        high = unseen_points(count)
    elif kind.unit == "%" and count and low == high == 100:
        low = 100 - unseen_points(count)
    return Figure(value=_known(one.value), low=low, high=high, items=count)


def _difference(kind: MetricKind, before: _Measured, after: _Measured, tolerance: float) -> Difference:
    pairs = [(first, second) for first, second in zip(before.items, after.items, strict=True)
             if first is not None and second is not None]
    rose = sum(first < second for first, second in pairs)
    fell = sum(first > second for first, second in pairs)
    if kind.better == "less":
        rose, fell = fell, rose
    points = _known(float(kind.points(np.asarray(before.value), np.asarray(after.value))))
    within = interval(kind.points(before.resamples, after.resamples))
    if points is None or within is None:
        return Difference(points=points, low=None, high=None, better=rose, worse=fell, verdict=None)
    low, high = within
    # An F1 may fall though no item's own score did, where answers went from one wrong class to another.
    if kind.unit == "%" and not rose and not fell and low == high == 0:
        low, high = -unseen_points(len(pairs)), unseen_points(len(pairs))
    return Difference(points=points, low=low, high=high, better=rose, worse=fell,
                      verdict=verdict_of(points, low, tolerance))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
