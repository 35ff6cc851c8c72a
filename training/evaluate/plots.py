"""Plots as SVG that stands within a page: in the colours of the page's light and dark form, with the page's letters.

matplotlib draws with colours that stand for the page's variables, and they are put in their place in what it writes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from training.fit.curve import scale

#: Colours that no plot has by chance, and what they become.
INK, FAINT, PAPER = "#010203", "#040506", "#070809"
GOOD, BAD, UNSURE = "#0a0b0c", "#0d0e0f", "#101112"
SERIES = ("#131415", "#161718", "#191a1b", "#1c1d1e", "#1f2021", "#222324")
_VARIABLES = {INK: "ink", FAINT: "faint", PAPER: "paper", GOOD: "good", BAD: "bad", UNSURE: "unsure",
              **{colour: f"series-{number}" for number, colour in enumerate(SERIES)}}
#: Inches, of a plot that has the page for itself, and of one that has half of it.
_WIDTH, HALF = 7.6, 4.9


@dataclass(frozen=True, slots=True)
class Point:
    """With its interval, where there is one; written: its value, as it stands beside it."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: str
    written: str


def series(number: int) -> str:
    return SERIES[number % len(SERIES)]


def intervals(points: Sequence[Point], *, xlabel: str, name: str, zero: bool = False,
              tolerance: float | None = None, limits: tuple[float, float] | None = None, width: float = _WIDTH) -> str:
    """One line for each point, the first on top. zero: a line there, as of differences; tolerance: another at so much
    below. limits: of the axis, where it has some of its own."""
    with _style(name):
        figure, axes = _figure(0.7 + 0.36 * len(points), width)
        for at, point in enumerate(reversed(points)):
            if point.low is not None and point.high is not None:
                axes.plot([point.low, point.high], [at, at], color=point.colour, linewidth=3, alpha=0.35,
                          solid_capstyle="round")
            axes.plot([point.value], [at], "o", color=point.colour, markersize=7)
            axes.annotate(point.written, (point.value, at),
                          xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(points)), [point.label for point in reversed(points)])
        axes.set_ylim(-0.6, len(points) - 0.3)
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        if tolerance is not None:
            axes.axvline(-tolerance, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        axes.grid(axis="x")
        axes.set_xlabel(xlabel)
        axes.margins(x=0.08)
        if limits is not None:
            axes.set_xlim(*limits)
        return _svg(figure, name)


def bars(labels: Sequence[str], groups: Sequence[tuple[str, Sequence[float | None], Sequence[str]]], *, name: str,
         xlabel: str, log: bool = False) -> str:
    """labels: of the lines. groups: each with its name, a value a line and how it is written."""
    with _style(name):
        figure, axes = _figure(0.9 + 0.24 * len(labels) * len(groups), HALF)
        height = 0.8 / len(groups)
        most = max((value for _, values, _ in groups for value in values if value is not None), default=1.0)
        for number, (title, values, written) in enumerate(groups):
            at = [len(labels) - 1 - line + 0.4 - height * (number + 0.5) for line in range(len(labels))]
            axes.barh(at, [value or 0.0 for value in values], height * 0.86, color=series(number), label=title)
            for place, value, text in zip(at, values, written, strict=True):
                if value is not None:
                    axes.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center",
                                  fontsize=8, color=INK)
        axes.set_yticks([len(labels) - 1 - line for line in range(len(labels))], labels)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, position: "")
        axes.set_xlim(right=most * (4 if log else 1.18))
        axes.grid(axis="x")
        axes.set_xlabel(f"{xlabel}, logarithmic" if log else xlabel)
        if len(groups) > 1:
            _legend(figure, axes)
        return _svg(figure, name)


def losses(training: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]], best: int | None, *,
           overfits: bool, name: str) -> str:
    """best: the step whose weights were kept; overfits: the loss only rose behind it."""
    with _style(name):
        figure, axes = _figure(2.9)
        if training:
            axes.plot(*zip(*training, strict=True), color=series(0), linewidth=1.3, label="training")
        if validation:
            axes.plot(*zip(*validation, strict=True), color=series(1), linewidth=1.6, marker="o", markersize=4,
                      label="validation")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(f"over-fits from step {best}" if overfits else f"kept: step {best}", (best, 1),
                          xycoords=("data", "axes fraction"), xytext=(-4 if not overfits else 4, -3),
                          textcoords="offset points", va="top", ha="left" if overfits else "right", fontsize=8,
                          color=INK)
            if overfits:
                axes.axvspan(best, max(step for step, _ in validation), color=BAD, alpha=0.1, linewidth=0)
        scale(axes, [loss for _, loss in (*training, *validation)])
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.set_ylabel("nats a token")
        _legend(figure, axes)
        return _svg(figure, name)


def matrix(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], *, name: str) -> str:
    """Confusion: rows what is right, columns what was said; shades are shares of a row."""
    with _style(name):
        side = 0.42
        figure, axes = _figure(1.4 + side * len(rows), HALF)
        for at, row in enumerate(counts):
            total = sum(row) or 1
            for place, count in enumerate(row):
                right = rows[at] == columns[place]
                axes.barh(at, 0.94, 0.9, left=place - 0.47, color=GOOD if right else BAD, alpha=0.75 * count / total)
                if count:
                    axes.annotate(str(count), (place, at), ha="center", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("said")
        axes.set_ylabel("right")
        return _svg(figure, name)


def _style(name: str) -> AbstractContextManager[None]:
    import matplotlib as mpl

    return mpl.rc_context({
        "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.family": "sans-serif",
        "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK,
        "ytick.color": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": FAINT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.facecolor": "none",
        "figure.facecolor": "none", "legend.frameon": False, "axes.labelsize": 8.5, "xtick.labelsize": 8.5,
    })


def _figure(height: float, width: float = _WIDTH) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), fontsize=8.5)


def _svg(figure: Any, name: str) -> str:
    """Without a prologue, its ids made those of this plot alone."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = text[text.index("<svg"):]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    return re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text))
