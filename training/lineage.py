"""What a run puts into `edged-training.json`: from what the weights came, and how well they did before conversion."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from pathlib import Path

import msgspec

from edged.errors import RefusedFile
from edged.store import trained
from edged.store.lineage import Training
from edged.version import VERSION
from training.answers.answered import Answered, Told
from training.chosen import chosen
from training.data.made import DataMade
from training.evaluate.results import Evaluated
from training.models import base_facts, named
from training.recipe import Finetune, Recipe, Student
from training.run import Run, digest
from training.split import tested_apart, training_examples, validation_examples

#: Distributions that decide what comes out of a training.
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "optuna", "olive-ai")


def lineage(run: Run, earlier: Path) -> Training:
    """earlier: the folder of the export before, whose date stays where nothing else has changed: an export that is made
    again is the same, byte for byte. metrics: of the evaluation. Raises InvalidRequest where a stage has not ended."""
    ended = run.trained()
    base = base_facts(run, ended.base) if ended.base is not None else None
    made = Training(
        recipe=run.recipe.name, recipe_digest=hashlib.sha256(run.file.text.encode()).hexdigest(),
        base=named(base.reference) if base is not None else None, base_digest=base.digest if base is not None else None,
        method=method(chosen(run.recipe, run)), seed=run.recipe.seed, data_digest=data_digest(run),
        train=len(training_examples(run)), validation=len(validation_examples(run)),
        test=len(tested_apart(run)), parents=teachers(run), steps=ended.steps, seconds=ended.seconds,
        metrics={**ended.metrics, **_measured(run)}, packages=_packages(), at=time.time())
    return _dated(made, earlier)


def says_the_same(folder: Path, training: Training) -> bool:
    """It comes from this training, whenever it was exported."""
    return (before := _told(folder)) is not None and _same(training, before)


def method(recipe: Recipe) -> str:
    """In words."""
    if (distil := recipe.distil) is not None and distil.student is not None:
        return _student(distil.student)
    assert recipe.finetune is not None
    return _finetune(recipe.finetune)


def teachers(run: Run) -> tuple[str, ...]:
    """By title, with what their endpoints say that answered; each once. The base teaches where soft targets name
    nobody."""
    distil = run.recipe.distil
    if distil is None:
        return ()
    found = [_answerer(told) for told in run.value("answers", Answered).teachers] if distil.answers is not None else []
    if distil.student is not None and (distil.student.soft is not None or distil.student.match is not None):
        named = distil.student.soft.teachers if distil.student.soft is not None else ()
        found += [teacher.title for teacher in named] or [run.recipe.base.rstrip("/").rpartition("/")[2]]
    return tuple(dict.fromkeys(found))


def data_digest(run: Run) -> str:
    """Of what was learned and measured on; with what teachers answered, where they did. Raises InvalidRequest where a
    stage has not ended."""
    made = run.value("data", DataMade).digest
    if run.recipe.distil is None or run.recipe.distil.answers is None:
        return made
    return digest(made, run.value("answers", Answered).digest)


def _answerer(told: Told) -> str:
    return f"{told.name} ({', '.join(told.served)})" if told.served and told.served != (told.name,) else told.name


def _finetune(how: Finetune) -> str:
    said = "all weights" if how.method == "full" else f"{how.method} of rank {how.rank}"
    said += " through Olive" if how.through == "olive" else ""
    return f"{said}, then preferences (DPO)" if how.preferences is not None else said


def _student(how: Student) -> str:
    form = how.architecture
    said = f"a student of {form.layers} layers, {form.hidden} wide, from scratch" if how.init == "scratch" \
        else f"a student that began as {named(how.init)}"
    if how.soft is not None:
        said += f", soft targets at temperature {how.soft.temperature:g}"
    if how.match is not None:
        said += ", layers matched"
    return said


def _measured(run: Run) -> dict[str, float]:
    """Of what was trained, before anything was done to it: the figures of the last subject that transformers computed.
    """
    results = [each for each in run.value("evaluate", Evaluated).results if each.subject.kind == "hf"]
    return {name: figure.value for name, figure in results[-1].figures.items() if figure.value is not None} \
        if results else {}


def _packages() -> dict[str, str]:
    found = {"edged": VERSION}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _dated(made: Training, earlier: Path) -> Training:
    before = _told(earlier)
    return before if before is not None and _same(made, before) else made


def _same(one: Training, other: Training) -> bool:
    """But for the date."""
    return msgspec.structs.replace(one, at=other.at) == other


def _told(folder: Path) -> Training | None:
    try:
        return trained.read(folder)
    except RefusedFile:
        return None
