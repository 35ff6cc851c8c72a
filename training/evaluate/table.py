"""The comparison as text for a terminal, and in a sentence or two."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from training.evaluate.asking import CONCURRENCY
from training.evaluate.metrics import kinds
from training.evaluate.results import Comparison, Difference, Evaluated, Figure, Result, Verdict

TABLE_FILE = "table.txt"
VERDICTS: dict[Verdict, str] = {
    "gained": "better", "kept": "no more lost than the tolerance", "lost": "more lost than the tolerance",
    "unsure": "too few items to tell"}


def table(evaluated: Evaluated) -> str:
    """Two tables: figures by subject, differences by pair. Lines are as long as they are; each ends with \\n."""
    heads = kinds(evaluated.metrics)
    rows = [["", *(result.subject.shown for result in evaluated.results)]]
    rows += [[kind.title, *(figure(result.figures[kind.name], kind.unit) for result in evaluated.results)]
             for kind in heads]
    rows += [[name, *cells] for name, cells in performance_rows(evaluated)]
    steps = [["", *(kind.title for kind in heads), "time of an answer"]]
    titles = {result.subject.name: result.subject.shown for result in evaluated.results}
    steps += [[f"{titles[one.before]} → {titles[one.after]}",
               *(difference(one.differences[kind.name]) for kind in heads), times(one)]
              for one in evaluated.comparisons]
    items = evaluated.results[0].items if evaluated.results else 0
    return (f"{items} items of the {evaluated.split} split; in brackets 95 % intervals\n\n" + _aligned(rows)
            + "\nwhat changed, in points, on the same items (items better, worse)\n\n" + _aligned(steps))


def performance_rows(evaluated: Evaluated) -> list[tuple[str, list[str]]]:
    """What is known of any subject, by subject."""
    rows = [(name, [told(result) for result in evaluated.results]) for name, told in _PERFORMANCE]
    return [(name, cells) for name, cells in rows if any(cells)]


def headline(evaluated: Evaluated) -> list[str]:
    """What a person should know first."""
    [kind] = [kind for kind in kinds(evaluated.metrics) if kind.name == evaluated.primary]
    said = ", ".join(f"{result.subject.shown} {figure(result.figures[kind.name], kind.unit)}"
                     for result in evaluated.results)
    lines = [f"{kind.title}: {said}"]
    titles = {result.subject.name: result.subject.shown for result in evaluated.results}
    for before, after in steps_of(evaluated):
        if (comparison := evaluated.comparison(before, after)) is not None:
            change = comparison.differences[kind.name]
            if change.verdict in ("lost", "unsure"):
                lines.append(f"{titles[before]} → {titles[after]}: {difference(change)}: {VERDICTS[change.verdict]}")
    lines += [f"{result.subject.shown}: {note}" for result in evaluated.results for note in result.notes]
    return lines


def steps_of(evaluated: Evaluated) -> list[tuple[str, str]]:
    """Each subject with the one before it."""
    names = [result.subject.name for result in evaluated.results]
    return list(itertools.pairwise(names))


def figure(figure: Figure, unit: str) -> str:
    if figure.value is None:
        return "–"
    within = "" if figure.low is None or figure.high is None \
        else f" [{number(figure.low, unit)}, {number(figure.high, unit)}]"
    return f"{number(figure.value, unit)}{' %' if unit == '%' else ''}{within}"


def difference(change: Difference) -> str:
    if change.points is None:
        return "–"
    within = "" if change.low is None or change.high is None else f" [{signed(change.low)}, {signed(change.high)}]"
    return f"{signed(change.points)}{within} ({change.better}, {change.worse})"


def times(comparison: Comparison) -> str:
    if comparison.answer_time is None:
        return ""
    ratio = comparison.answer_time
    return f"× {ratio.median:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


def number(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit == "%" else f"{value:#.3g}".removesuffix(".")


def signed(points: float) -> str:
    """Nothing is no less than nothing."""
    return f"{round(points, 1) + 0.0:+.1f}"


def size(count: float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return ""
    for unit, each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= each:
            return f"{count / each:.3g} {unit}"
    return f"{count:.0f} B"


def seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _first_token(result: Result) -> str:
    return seconds(result.speed.first_token_s.median) if result.speed is not None else ""


def _answer(result: Result) -> str:
    return seconds(result.speed.answer_s.median) if result.speed is not None else ""


def _rate(result: Result) -> str:
    speed = result.speed
    return f"{speed.tokens_per_s.median:.1f}" if speed is not None and speed.tokens_per_s is not None else ""


def _together(result: Result) -> str:
    return f"{result.together_tokens_per_s:.1f}" if result.together_tokens_per_s is not None else ""


def _weights(result: Result) -> str:
    return size(result.memory.weights_bytes) if result.memory is not None else ""


def _kv(result: Result) -> str:
    return size(result.memory.kv_bytes_per_token) if result.memory is not None else ""


def _resident(result: Result) -> str:
    return size(result.memory.resident_bytes) if result.memory is not None else ""


_PERFORMANCE = (
    ("first token (median)", _first_token), ("whole answer (median)", _answer), ("tokens a second", _rate),
    (f"tokens a second, {CONCURRENCY} at once", _together),
    ("weights", _weights), ("keys and values of a token", _kv), ("memory of the process", _resident))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
                   for row in rows)
