"""Subjects measured on the same held-out items and set side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edged.errors import InvalidRequest
from training.evaluate.choice import Chosen, choose
from training.evaluate.figures import differences
from training.evaluate.measure import measure, read_items, write_result
from training.evaluate.race import Race, Raced, key_of, prompts_for, race, raced_before, ratio, speed_of
from training.evaluate.report import report
from training.evaluate.results import Comparison, Evaluated, Result
from training.evaluate.subject import Subject
from training.evaluate.table import TABLE_FILE, headline, table
from training.examples import Example
from training.run import Moment, Run, Tell
from training.split import prompts_of, test_examples, tested_apart, training_examples

Stage = Literal["evaluate", "served"]


def evaluate(
    run: Run, tell: Tell, subjects: Sequence[Subject], *, stage: Stage = "evaluate", times: bool = True,
) -> Evaluated:
    """Everything goes into the folder of stage evaluate, whichever stage asks: `<subject>/` for each, `rounds.json`,
    `table.txt` and `report.html` for all of them in this order. What is there already of the same subject is taken
    over. times: and memory are measured too, where the recipe wants them. Raises InvalidRequest where there is nothing
    to ask, or a metric does not fit; what `measure` and `race` raise."""
    if len({subject.name for subject in subjects}) != len(subjects):
        raise InvalidRequest("two subjects have one name; each has a folder of its own by it")
    settings, seed = run.recipe.evaluate, run.recipe.seed
    examples = drawn(test_examples(run), settings.limit, seed)
    chosen = choose(settings, examples, training_examples(run))
    out = run.path("evaluate")
    results = [
        measure(subject, examples, settings, out / subject.name, tell, chosen=chosen, seed=seed, stage=stage)
        for subject in subjects]
    raced = _raced(run, subjects, examples, tell, stage) if settings.performance and times else None
    if raced is not None:
        results = [_with_race(result, raced, out) for result in results]
    evaluated = Evaluated(
        primary=chosen.primary, metrics=chosen.metrics, labels=chosen.labels, split=_split(run), results=tuple(results),
        comparisons=_comparisons(run, results, chosen, raced, out), report="evaluate/report.html",
        turn_about=raced is None or raced.turn_about)
    tell(Moment(stage=stage, what="report"))
    text = table(evaluated)
    (out / TABLE_FILE).write_text(text)
    report(run, evaluated)
    for line in headline(evaluated):
        tell(Moment(stage=stage, note=line))
    return evaluated


def _raced(
    run: Run, subjects: Sequence[Subject], asked: Sequence[Example], tell: Tell, stage: Stage,
) -> Race | None:
    """By prompts that are not asked of anyone else, nor raced before: what was held out and not drawn, then what was
    learned from. None, and told, where no prompt has an answer of all."""
    held_out, learned = [*prompts_of(run, "test"), *prompts_of(run, "validation"), *asked], prompts_of(run, "train")
    ids = {example.id for example in asked}
    prompts = prompts_for([held_out, learned], ids, run.recipe.seed)
    out, max_tokens = run.path("evaluate"), run.recipe.evaluate.max_tokens
    key = key_of(subjects, prompts, max_tokens, out)
    raced = raced_before(subjects, key, out)
    if raced is None:
        before = Raced(run.folder, subjects)
        ids |= before.ids()
        prompts = prompts_for([held_out, learned], ids, run.recipe.seed)
        before.note(prompts)
    if any(subject.kind == "endpoint" for subject in subjects) and any(example.id in ids for example in prompts):
        tell(Moment(stage=stage, note="there are too few prompts that were not asked before, so times are of some that "
                                      "were; what serves and keeps prompts answers these sooner"))
    if raced is None:
        raced = race(subjects, prompts, max_tokens, out, tell, key=key, stage=stage)
    if not all(raced.rounds.values()):
        tell(Moment(stage=stage, note="no prompt is answered by all subjects, so no times are told"))
        return None
    return raced


def drawn(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` of them, the same ones whatever their order, in the order of the file."""
    if limit is None or limit >= len(examples):
        return list(examples)
    kept = set(sorted((example.id for example in examples),
                      key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())[:limit])
    return [example for example in examples if example.id in kept]


def _split(run: Run) -> Literal["test", "validation"]:
    return "test" if tested_apart(run) else "validation"


def _with_race(result: Result, raced: Race, out: Path) -> Result:
    name = result.subject.name
    known = msgspec.structs.replace(result, speed=speed_of(raced.rounds[name]), memory=raced.memory[name])
    write_result(known, out / name)
    return known


def _comparisons(
    run: Run, results: Sequence[Result], chosen: Chosen, raced: Race | None, out: Path,
) -> tuple[Comparison, ...]:
    settings, seed = run.recipe.evaluate, run.recipe.seed
    names = [result.subject.name for result in results]
    found = differences([read_items(out / name) for name in names], chosen, resamples=settings.resamples, seed=seed,
                        tolerance=settings.tolerance)
    made = []
    for (first, second), of_metrics in found.items():
        comparison = Comparison(before=names[first], after=names[second], differences=of_metrics)
        if raced is not None:
            before, after = raced.rounds[names[first]], raced.rounds[names[second]]
            comparison = msgspec.structs.replace(
                comparison,
                answer_time=ratio([one.answer_s for one in before], [one.answer_s for one in after], seed),
                first_token_time=ratio(
                    [one.first_token_s for one in before], [one.first_token_s for one in after], seed))
        made.append(comparison)
    return tuple(made)
