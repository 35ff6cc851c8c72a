"""The plot of a fit: training and validation loss by step, and from where on it over-fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edged.store import files
from training.fit import history
from training.fit.history import Row
from training.fit.plan import best

CURVE = "curve.png"
#: Losses of which one is so many times another are drawn on a logarithmic axis.
WIDE = 20.0


def overfits_from(rows: Sequence[Row]) -> int | None:
    """The step after which the validation loss only is worse: that of its least value, unless that came last."""
    losses = history.validation(rows)
    if not losses:
        return None
    at = best([loss for _, loss in losses])
    return losses[at][0] if at < len(losses) - 1 else None


def scale(axes: Any, losses: Sequence[float]) -> None:
    """The axis of losses: from 0, or logarithmic, where the end of a training would lie flat on 0."""
    if losses and min(losses) > 0 and max(losses) > WIDE * min(losses):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)


def draw(rows: Sequence[Row], folder: Path) -> None:
    """`curve.png` in the folder. Nothing where there is no point yet."""
    from matplotlib.figure import Figure

    training = [(each.step, each.loss) for each in rows if each.loss is not None]
    losses = history.validation(rows)
    if not training and not losses:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if training:
        axes.plot(*zip(*training, strict=True), label="training", color="#8aa5c8", linewidth=1.2)
    if losses:
        axes.plot(*zip(*losses, strict=True), label="validation", color="#d1602c", marker="o", markersize=4)
    if (step := overfits_from(rows)) is not None:
        axes.axvline(step, color="#555555", linestyle="--", linewidth=1)
        axes.axvspan(step, max(each.step for each in rows), color="#d1602c", alpha=0.08)
        axes.annotate(f"over-fits from step {step}", (step, 0.97), xycoords=("data", "axes fraction"),
                      xytext=(4, 0), textcoords="offset points", va="top", fontsize=9, color="#555555")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    scale(axes, [loss for _, loss in (*training, *losses)])
    axes.grid(alpha=0.25)
    axes.legend()
    temporary = folder / f".{CURVE}"
    figure.savefig(temporary, format="png", dpi=120)
    files.replace(temporary, folder / CURVE)
