"""`python -m bench.proof.plot RESULTS.json`: the rows with a ratio as bars, as an SVG for the README."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.proof.judge import Judgement
from bench.proof.record import Record, load
from bench.proof.sides import TITLES
from bench.proof.table import judged
from bench.servers import ROOT

SVG = ROOT / "bench" / "ratios.svg"
_COLORS = {"met": "#2a7f4f", "missed": "#b4442f", "": "#8a8f98"}


def speed(one: Judgement) -> tuple[float, float | None]:
    """How many times as fast edged is, whichever way the figure is better, and the goal in the same measure."""
    assert one.value is not None
    goal = one.row.goal
    if one.row.better == "higher":
        return one.value, goal
    return 1 / one.value, None if goal is None else 1 / goal


def draw(record: Record, path: Path) -> int:
    """Rows that have a ratio; returns how many."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ratios"  # the same figures make the same file
    from matplotlib import pyplot as plt

    rows = [one for one in judged(record) if one.row.of == "ratio" and one.value and one.best]
    if not rows:
        return 0
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(rows) + 1.2), layout="constrained")
    for place, one in enumerate(reversed(rows)):
        value, goal = speed(one)
        axes.barh(place, value, color=_COLORS[one.verdict], height=0.6)
        axes.text(value, place, f" {value:.2g} x", va="center", fontsize=8)
        if goal is not None:
            axes.plot([goal, goal], [place - 0.42, place + 0.42], color="black", linewidth=2)
    axes.set_yticks(range(len(rows)), [f"{one.row.title}  (peer: {TITLES[one.best or '']})" for one in reversed(rows)],
                    fontsize=8)
    axes.axvline(1, color="#555", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as the best peer (black mark: goal)", fontsize=8)
    axes.set_title(f"edged {record.commit}, {record.when}, {record.machine.get('cpu', '')}"
                   + (" – QUICK, proves the harness only" if record.quick else ""), fontsize=8)
    axes.margins(x=0.12)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return len(rows)


if __name__ == "__main__":
    print(f"{draw(load(Path(sys.argv[1])), SVG)} rows in {SVG.relative_to(ROOT)}")
