"""What would be found out after hours, or after teachers were paid, otherwise: looked at before the first stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edged.hardware.probe import probe
from training import apart, opened
from training.answers import stage as answers
from training.data.files import sources
from training.deploy import beside
from training.deploy import stage as deploy
from training.estimate import require_machine
from training.evaluate import judging
from training.finetune.preferred import PREFERENCES_KEY, require_readable
from training.models import base_key, forget_others
from training.recipe import Recipe
from training.run import Run
from training.search import stage as search
from training.split import SPLITS
from training.student import stage as student


def check(run: Run) -> None:
    """Raises ModelNotFound or RefusedFile of a base, teacher or other model that is not there, ConfigError of a file
    that is not there and of what stages would refuse in the recipe, InvalidRequest of rows of preferences that are
    wrong, DeviceUnavailable of what this machine cannot do; what `training.models.base_folder` raises."""
    facts = probe()
    for each in opened.members(run) or (run,):
        apart.asked(each, "preflight", partial(require_machine, each.recipe, facts))
        recipe = each.recipe
        for model in _models(recipe):
            base_key(each, model)
        _require_files(each)
        if recipe.distil is not None and recipe.distil.answers is not None:
            answers.check(each, recipe.distil.answers)
        if recipe.distil is not None and recipe.distil.student is not None:
            student.check(each, recipe.distil.student)
        if recipe.search is not None:
            search.check(each)
        judging.check(each)
        if run.recipe.deploy is not None:
            beside.check(each, [Path(said).stem for said in run.recipe.deploy.conversion[1:]])
    if run.recipe.deploy is not None:
        deploy.check(run)


def _require_files(run: Run) -> None:
    """Rows of [data] and of prompts are read before anything else is done; those of preferences after all that comes
    before a fine-tuning. Libraries that read them stay in a process of their own."""
    recipe = run.recipe
    if recipe.data is not None:
        for name in SPLITS:
            sources(run, getattr(recipe.data, name), ("data", name), name)
    if recipe.distil is not None and recipe.distil.answers is not None:
        sources(run, recipe.distil.answers.prompts, answers.PROMPTS_KEY, "train")
    if recipe.finetune is not None and (preferences := recipe.finetune.preferences) is not None and preferences.data:
        sources(run, preferences.data, PREFERENCES_KEY, "train")
        apart.asked(run, "preflight", partial(require_readable, run, preferences))


def forget_old_models(run: Run) -> None:
    """Of the run and its members, whose locks the caller holds: what was brought of bases and local teachers that are
    others now."""
    for each in (*opened.members(run), run):
        forget_others(each, _models(each.recipe))


def _models(recipe: Recipe) -> list[str | None]:
    """As the recipe names them; None: its base."""
    found: list[str | None] = [None]
    if (distil := recipe.distil) is not None:
        if distil.answers is not None:
            found += [teacher.model for teacher in distil.answers.teachers if teacher.endpoint is None]
        if distil.student is not None:
            found += student.models_of(distil.student)
    return found
