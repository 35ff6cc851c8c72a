"""Items that came out otherwise: what was gained and what was lost between two subjects, item by item."""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluate.items import Item
from training.evaluate.metrics import MetricKind

Pair = tuple[Item, Item]


def changes(before: Sequence[Item], after: Sequence[Item], metric: MetricKind) -> list[tuple[str, list[Pair]]]:
    """Both of the same examples in the same order. In groups, each with a title; the greatest changes first."""
    pairs = [(one, other) for one, other in zip(before, after, strict=True)
             if metric.name in one.scores and metric.name in other.scores]

    def gain(pair: Pair) -> float:
        change = pair[1].scores[metric.name] - pair[0].scores[metric.name]
        return change if metric.better == "more" else -change

    ordered = sorted(pairs, key=lambda pair: (-abs(gain(pair)), pair[0].id))
    found = [("better than before", [pair for pair in ordered if gain(pair) > 0]),
             ("worse than before", [pair for pair in ordered if gain(pair) < 0])]
    if metric.unit == "%":
        found.append(("wrong both times", [
            pair for pair in ordered if gain(pair) == 0 and pair[1].scores[metric.name] == 0]))
    return [(title, group) for title, group in found if group]
