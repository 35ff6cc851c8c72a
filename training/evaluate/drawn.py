"""Which plots a report has, and of what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from training.evaluate import plots
from training.evaluate.items import Item
from training.evaluate.meaning import label_of, text_of
from training.evaluate.metrics import MetricKind
from training.evaluate.results import Evaluated, Verdict
from training.evaluate.table import number, seconds, signed, size
from training.fit import history
from training.fit.curve import overfits_from
from training.run import Run, StageName

#: More classes make no matrix that one can read.
_MOST_CLASSES = 16
_OTHER = "something else"
_COLOURS: dict[Verdict, str] = {
    "gained": plots.GOOD, "kept": plots.series(0), "unsure": plots.UNSURE, "lost": plots.BAD}
#: Tokens of keys and values that are set beside the weights.
_CONTEXT = 2048


def by_subject(evaluated: Evaluated, kind: MetricKind) -> tuple[str, Markup] | None:
    points = [
        plots.Point(result.subject.shown, found.value, found.low, found.high, plots.series(0),
                    number(found.value, kind.unit))
        for result in evaluated.results if (found := result.figures[kind.name]).value is not None]
    if not points:
        return None
    xlabel = "% of items" if kind.unit == "%" else kind.title + (" (less is better)" if kind.better == "less" else "")
    return kind.title, Markup(plots.intervals(
        points, xlabel=xlabel, name=f"metric-{kind.name}", limits=(0, 104) if kind.unit == "%" else None,
        width=plots.HALF))


def gains(evaluated: Evaluated, primary: MetricKind, tolerance: float) -> list[tuple[str, Markup]]:
    """What was gained since the first subject; and each step behind it, with the way from its first to its last one,
    which is small where all is well and so has a plot of its own."""
    names = [result.subject.name for result in evaluated.results]
    later = names[1:]
    behind = [*itertools.pairwise(later), *([(later[0], later[-1])] if len(later) > 2 else [])]
    plotted = (("since the first", [(names[0], name) for name in later], None), ("step by step", behind, tolerance))
    return [(title, drawn) for title, pairs, allowed in plotted
            if (drawn := _gains(evaluated, primary, pairs, title, allowed)) is not None]


def _gains(
    evaluated: Evaluated, primary: MetricKind, pairs: Sequence[tuple[str, str]], title: str, tolerance: float | None,
) -> Markup | None:
    titles = {result.subject.name: result.subject.shown for result in evaluated.results}
    points = []
    for before, after in pairs:
        compared = evaluated.comparison(before, after)
        change = compared.differences[primary.name] if compared is not None else None
        if change is not None and change.points is not None:
            colour = _COLOURS[change.verdict] if change.verdict is not None else plots.INK
            points.append(plots.Point(f"{titles[before]} → {titles[after]}", change.points, change.low, change.high,
                                      colour, signed(change.points)))
    if not points:
        return None
    return Markup(plots.intervals(
        points, xlabel=f"points of {primary.title}, on the same items", name=title.replace(" ", "-"), zero=True,
        tolerance=tolerance))


def loss(run: Run) -> Markup | None:
    """Of the last training of this run."""
    stages: tuple[StageName, ...] = ("student", "finetune")
    rows = next((found for stage in stages if (found := history.read(run.path(stage)))), [])
    validation = history.validation(rows)
    if not rows:
        return None
    overfits = overfits_from(rows)
    best = min(validation, key=lambda point: point[1])[0] if validation else None
    return Markup(plots.losses([(row.step, row.loss) for row in rows if row.loss is not None], validation, best,
                               overfits=overfits is not None, name="loss"))


def performance(evaluated: Evaluated) -> list[tuple[str, Markup]]:
    found = []
    fast = [(result.subject.shown, result.speed) for result in evaluated.results if result.speed is not None]
    if fast:
        first, whole = ([speed.first_token_s.median for _, speed in fast], [speed.answer_s.median for _, speed in fast])
        found.append(("time of one request, median", Markup(plots.bars(
            [title for title, _ in fast],
            [("first token", first, [seconds(value) for value in first]),
             ("whole answer", whole, [seconds(value) for value in whole])],
            xlabel="seconds", name="times", log=_apart([*first, *whole])))))
    weighed = [(result.subject.shown, result.memory) for result in evaluated.results if result.memory is not None]
    stored = [None if memory.weights_bytes is None else memory.weights_bytes / 1e6 for _, memory in weighed]
    kept = [None if memory.kv_bytes_per_token is None else memory.kv_bytes_per_token * _CONTEXT / 1e6
            for _, memory in weighed]
    resident = [None if memory.resident_bytes is None else memory.resident_bytes / 1e6 for _, memory in weighed]
    groups = [(title, values, [size(None if value is None else value * 1e6) for value in values])
              for title, values in (("weights", stored), (f"KV of {_CONTEXT} tokens", kept),
                                    ("process", resident))
              if any(value is not None for value in values)]
    if groups:
        known = [value for _, values, _ in groups for value in values if value is not None]
        found.append(("memory", Markup(plots.bars(
            [title for title, _ in weighed], groups, xlabel="MB", name="memory", log=_apart(known)))))
    return found


def confusions(evaluated: Evaluated, items: dict[str, list[Item]]) -> list[tuple[str, Markup]]:
    """Of the first and the last subject, where answers are classes."""
    labels = evaluated.labels
    if not 1 < len(labels) <= _MOST_CLASSES or not {"accuracy", "f1"} & set(evaluated.metrics):
        return []
    ends = [evaluated.results[0], evaluated.results[-1]] if len(evaluated.results) > 1 else list(evaluated.results)
    return [(result.subject.shown, Markup(plots.matrix(
        labels, [*labels, _OTHER], counted(items[result.subject.name], labels),
        name=f"confusion-{number}"))) for number, result in enumerate(ends)]


def counted(items: Sequence[Item], labels: Sequence[str]) -> list[list[int]]:
    """Rows: what is right; columns: what was said, the last one anything that is no class."""
    numbers = {label_of(label): at for at, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for item in items:
        right = numbers.get(label_of(text_of(item.expected)))
        said = len(labels) if item.said is None else numbers.get(label_of(text_of(item.said)), len(labels))
        if right is not None:
            counts[right][said] += 1
    return counts


def _apart(values: Sequence[float]) -> bool:
    """So far that small ones would not be seen."""
    known = [value for value in values if value > 0]
    return bool(known) and max(known) > 30 * min(known)
