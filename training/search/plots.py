"""A search, drawn: the value of each trial, and how much each key mattered."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from edged.store import files
from training.search.found import Searched

_TRIAL, _BEST, _PLAIN = "#8aa5c8", "#d1602c", "#555555"


def history(rows: Sequence[dict[str, Any]], found: Searched, path: Path, *, least: bool) -> None:
    """rows: of `Study.rows`. Pruned trials are shown with the last value that they came to."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    whole = [(row["number"], row["value"]) for row in rows if row["state"] == "complete"]
    pruned = [(row["number"], list(row["evaluations"].values())[-1]) for row in rows
              if row["state"] == "pruned" and row["evaluations"]]
    failed = [row["number"] for row in rows if row["state"] == "fail"]
    axes.scatter(*zip(*whole, strict=True), color=_TRIAL, label="trial", zorder=3)
    if pruned:
        axes.scatter(*zip(*pruned, strict=True), color=_TRIAL, marker="x", label="pruned", zorder=3)
    if failed:
        axes.scatter(failed, [axes.get_ylim()[1]] * len(failed), color=_PLAIN, marker="v", label="failed", zorder=3)
    best = list(accumulate((value for _, value in whole), min if least else max))
    axes.step([number for number, _ in whole], best, where="post", color=_BEST, label="best so far")
    if found.default_value is not None:
        axes.axhline(found.default_value, color=_PLAIN, linestyle="--", linewidth=1, label="the recipe as written")
    axes.set_xlabel("trial")
    axes.set_ylabel(found.objective)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend()
    _save(figure, path)


def importance(found: Searched, path: Path) -> None:
    """No plot where too few trials tell."""
    from matplotlib.figure import Figure

    if not found.importance:
        files.remove(path)
        return
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(found.importance)), layout="constrained")
    axes = figure.subplots()
    keys = list(reversed(found.importance))
    bars = axes.barh(keys, [found.importance[key] for key in keys], color=_TRIAL)
    axes.bar_label(bars, fmt="{:.0%}", padding=4)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"share of what made {found.objective} differ (fANOVA)")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=120)
    files.replace(temporary, path)
