"""Stage `evaluate`: what the training began from, and what it made."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from training.evaluate.evaluation import evaluate
from training.evaluate.results import Evaluated
from training.evaluate.subject import Subject
from training.models import base_folder
from training.recipe import Recipe
from training.run import Moment, Run, Tell, digest
from training.stage import StageKind


def wanted(recipe: Recipe) -> bool:
    return recipe.finetune is not None or _makes_student(recipe)


def key(run: Run) -> str:
    return digest("evaluate", run.recipe.evaluate, run.recipe.seed, run.key("data"),
                  run.key("student" if _makes_student(run.recipe) else "finetune"))


def subjects_here(run: Run) -> list[Subject]:
    """All that transformers computes, in the order of the chain: what training began from, what it made, and what was
    exported of it where that is something else (an adapter that was merged). Raises what `base_folder` raises."""
    found = _trained(run)
    if run.trained().kind == "adapter" and run.ended("export"):
        exported = run.value("export", _Exported)
        if exported.kind == "model":
            found.append(Subject(name="exported", title="merged", kind="hf", folder=run.folder / exported.folder,
                                 precision="fp32"))
    return found


class _Exported(Struct, frozen=True):
    """What this stage reads of what stage `export` returned."""

    kind: Literal["model", "adapter"]
    folder: str


def _trained(run: Run) -> list[Subject]:
    """Of a fine-tuning the base and what became of it; of a distillation the teacher (the recipe's base) and the
    student, with the model between them that the student began from, where there is one."""
    trained = run.trained()
    made = run.folder / trained.folder
    if _makes_student(run.recipe):
        found = [Subject(name="teacher", title="the teacher", kind="hf", folder=base_folder(run), precision="fp32")]
        if trained.base is not None:
            found.append(Subject(name="before", title="the student before", kind="hf", precision="fp32",
                                 folder=base_folder(run, trained.base)))
        return [*found, Subject(name="student", title="the student", kind="hf", folder=made, precision="fp32")]
    base = base_folder(run, trained.base)
    adapts = trained.kind == "adapter"
    return [
        Subject(name="before", title="the base", kind="hf", folder=base, precision="fp32"),
        Subject(name="trained", title="trained", kind="hf", folder=base if adapts else made,
                adapter=made if adapts else None, precision="fp32")]


def run_evaluate(run: Run, tell: Tell) -> Evaluated:
    """Times and memory only where stage served does not measure them, of all, beside what is served."""
    times = run.recipe.deploy is None
    if not times and run.recipe.evaluate.performance:
        tell(Moment(stage="evaluate", note="times and memory are measured by stage served, of all models in one race"))
    return evaluate(run, tell, _trained(run), times=times)


def _makes_student(recipe: Recipe) -> bool:
    return recipe.distil is not None and recipe.distil.student is not None


EVALUATE = StageKind(name="evaluate", wanted=wanted, key=key, run=run_evaluate)
