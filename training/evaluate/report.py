"""One page that tells an evaluation: `evaluate/report.html`, complete in itself, for light and dark screens.

Everything that comes from data, models and recipes is text to the page: the template escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edged.store import files
from training.evaluate import drawn
from training.evaluate.changes import changes
from training.evaluate.meaning import text_of
from training.evaluate.measure import read_items
from training.evaluate.metrics import MetricKind, kinds
from training.evaluate.results import Difference, Evaluated, Result, Verdict
from training.evaluate.strata import strata_rows
from training.evaluate.table import VERDICTS, difference, figure, number, performance_rows, signed, steps_of, times
from training.examples import Example
from training.run import Run
from training.split import test_examples

REPORT_FILE = "report.html"
TEMPLATE_FILE = "report.html.jinja"
#: Of each kind of change.
_SHOWN_CHANGES = 6
_MARKS: dict[Verdict, str] = {"gained": "▲", "kept": "●", "unsure": "?", "lost": "▼"}


def report(run: Run, evaluated: Evaluated) -> Path:
    """Reads the items of every subject again. Returns the page's file. Raises CorruptFile."""
    out = run.path("evaluate")
    examples = {example.id: example for example in test_examples(run)}
    page = rendered(_told(run, evaluated, out, examples))
    files.publish_bytes(out / REPORT_FILE, page.encode(), out)
    return out / REPORT_FILE


def rendered(told: dict[str, Any]) -> str:
    """The template, with what is told escaped, unless it is markupsafe.Markup."""
    from jinja2 import Environment, StrictUndefined

    source = (Path(__file__).parent / TEMPLATE_FILE).read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(told)


def _told(run: Run, evaluated: Evaluated, out: Path, examples: dict[str, Example]) -> dict[str, Any]:
    metrics = kinds(evaluated.metrics)
    [primary] = [kind for kind in metrics if kind.name == evaluated.primary]
    items = {result.subject.name: read_items(out / result.subject.name) for result in evaluated.results}
    titles = {result.subject.name: result.subject.shown for result in evaluated.results}
    return {
        "name": run.recipe.name, "base": run.recipe.base, "seed": run.recipe.seed, "settings": run.recipe.evaluate,
        "evaluated": evaluated, "primary": primary.title, "cards": _cards(evaluated, primary),
        "subjects": [result.subject.shown for result in evaluated.results],
        "figures": [(kind.title, [figure(result.figures[kind.name], kind.unit) for result in evaluated.results],
                     kind.name == primary.name) for kind in metrics],
        "performance": performance_rows(evaluated),
        "metric_plots": [plot for kind in metrics if (plot := drawn.by_subject(evaluated, kind)) is not None],
        "step_plots": drawn.gains(evaluated, primary, run.recipe.evaluate.tolerance),
        "differences": _differences(evaluated, metrics, titles), "metrics": [kind.title for kind in metrics],
        "loss_plot": drawn.loss(run), "time_plots": drawn.performance(evaluated),
        "strata": strata_rows(evaluated, primary), "confusions": drawn.confusions(evaluated, items),
        "changes": [
            {"before": titles[before], "after": titles[after], "groups": [
                (title, [_change(one, examples) for one in found[:_SHOWN_CHANGES]], len(found))
                for title, found in changes(items[before], items[after], primary)]}
            for before, after in _pairs_to_show(evaluated)],
        "notes": [(result.subject.shown, note) for result in evaluated.results for note in result.notes],
        "counts": [(result.subject.shown, result.failed, result.unfinished) for result in evaluated.results],
        "verdicts": [(mark, VERDICTS[verdict]) for verdict, mark in _MARKS.items()],
    }


def _cards(evaluated: Evaluated, primary: MetricKind) -> list[dict[str, str]]:
    found = []
    before: Result | None = None
    for result in evaluated.results:
        value = result.figures[primary.name]
        change = None
        if before is not None and (compared := evaluated.comparison(before.subject.name, result.subject.name)):
            change = compared.differences[primary.name]
        found.append({
            "title": result.subject.shown, "value": "–" if value.value is None else number(value.value, primary.unit),
            "unit": "%" if primary.unit == "%" else "",
            "interval": "" if value.low is None or value.high is None else
            f"{number(value.low, primary.unit)} to {number(value.high, primary.unit)}",
            "change": "" if change is None or change.points is None else signed(change.points),
            "detail": "" if change is None else difference(change).partition(" ")[2],
            "verdict": (change.verdict or "") if change else "",
            "mark": _mark(change), "words": _words(change),
            "precision": result.subject.precision or ""})
        before = result
    return found


def _differences(
    evaluated: Evaluated, metrics: Sequence[MetricKind], titles: dict[str, str],
) -> list[tuple[str, list[tuple[str, str, str]], str, bool]]:
    """For each pair: its name, each metric's difference with its mark and verdict, the times, whether it is a step."""
    steps = set(steps_of(evaluated))
    return [
        (f"{titles[one.before]} → {titles[one.after]}",
         [(difference(one.differences[kind.name]), _mark(one.differences[kind.name]),
           one.differences[kind.name].verdict or "") for kind in metrics], times(one),
         (one.before, one.after) in steps)
        for one in evaluated.comparisons]


def _pairs_to_show(evaluated: Evaluated) -> list[tuple[str, str]]:
    """What the training changed, and what was changed on the way from there to the last subject."""
    names = [result.subject.name for result in evaluated.results]
    made = next((name for name in ("trained", "student") if name in names), names[-1] if names else "")
    return [pair for pair in dict.fromkeys(((names[0], made), (made, names[-1]))) if pair[0] != pair[1]]


def _change(pair: tuple[Any, Any], examples: dict[str, Example]) -> dict[str, str]:
    before, after = pair
    example = examples.get(before.id)
    asked = [f"{message.role}: {text_of(message)}" for message in example.prompt] if example is not None else []
    return {
        "id": before.id, "stratum": before.stratum or "", "prompt": "\n\n".join(asked),
        "last": _short(text_of(example.prompt[-1])) if example is not None else before.id,
        "expected": text_of(before.expected), "before": _said(before), "after": _said(after),
        "before_why": before.grade_why, "after_why": after.grade_why}


def _said(item: Any) -> str:
    if item.said is None:
        return f"(no answer: {item.error})"
    cut = " … (cut off)" if item.finish_reason == "length" else ""
    return (text_of(item.said) or "(nothing)") + cut


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 140 else one_line[:139] + "…"


def _mark(change: Difference | None) -> str:
    return _MARKS[change.verdict] if change is not None and change.verdict is not None else ""


def _words(change: Difference | None) -> str:
    return VERDICTS[change.verdict] if change is not None and change.verdict is not None else ""
