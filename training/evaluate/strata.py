"""One metric by stratum and subject."""

from __future__ import annotations

from training.evaluate.metrics import MetricKind
from training.evaluate.results import Evaluated
from training.evaluate.table import figure


def strata_rows(evaluated: Evaluated, metric: MetricKind) -> list[tuple[str, int, list[tuple[str, float]]]]:
    """Of every stratum its name, how many items it has, and for each subject the figure as text and as a share of the
    way (0 to 1) for a bar; the strata that the last subject does worst at come first."""
    if not evaluated.results:
        return []
    last = evaluated.results[-1]

    def value(name: str) -> float:
        found = last.strata[name].get(metric.name)
        known = found.value if found is not None and found.value is not None else 0.0
        return known if metric.better == "more" else -known

    rows = []
    for name in sorted(last.strata, key=lambda name: (value(name), name)):
        cells = []
        for result in evaluated.results:
            told = result.strata.get(name, {}).get(metric.name)
            share = told.value / 100 if told is not None and told.value is not None and metric.unit == "%" else 0.0
            cells.append((figure(told, metric.unit) if told is not None else "–", share))
        rows.append((name, last.strata[name][metric.name].items, cells))
    return rows
