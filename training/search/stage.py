"""Stage `search`: trials with settings of the recipe's own ranges, the first of them with the recipe as it is written.

    search/study.db           optuna's study, which an attempt after a kill goes on with
    search/trials/<number>/   history and logs of each trial; its weights are not kept
    search/workers/           run folders of the processes that make trials; worker-<n>.log: what they print
    search/trials.json        what every trial tried and came to
    search/history.png        the trials' values, and the best so far
    search/importance.png     which key mattered how much
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import msgspec

from edged.errors import InsufficientMemory, InvalidRequest
from edged.hardware.probe import probe
from edged.store import files
from edged.store.space import in_words
from training.estimate import check as check_needs
from training.models import FOLDER as BASE_FOLDER
from training.models import base_key
from training.recipe import Finetune, Recipe, Student
from training.run import Moment, Run, Tell, digest
from training.search import plots
from training.search.found import Searched
from training.search.messages import Begin
from training.search.pool import Pool
from training.search.space import parameters
from training.search.study import Study
from training.search.trial import as_tried, measured_by, searched, trained_by
from training.search.trials import STAGE, make_trials, shown
from training.stage import StageKind
from training.student.stage import models_of

TRIALS_FILE = "trials.json"
#: Of the tables that a search may vary: what changes what the objective is measured by, or what a trial does not do.
_NEVER = {
    "devices": "trials run on one device each", "through": "trials are made with trl",
    "preferences": "trials end before preferences are learned", "evaluations": "trials are compared evaluation by "
                                                                               "evaluation",
}
_NOT_BY_LOSS = ("completion_only", "tokenizer", "init", "architecture.vocabulary")
_LEAST = ("validation_loss", "perplexity")


def _wanted(recipe: Recipe) -> bool:
    return recipe.search is not None


def _key(run: Run) -> str:
    return digest(_name(run), searched(run.recipe).trials)


def _run(run: Run, tell: Tell) -> Searched:
    search = searched(run.recipe)
    check(run)
    space = parameters(run.recipe, run.file)
    if search.objective != "validation_loss":
        # Refused here where it does not fit the answers: each trial would be trained first.
        measured_by(run, run.recipe, search.objective)
    _require_room(run, tell)
    folder = run.path(STAGE)
    files.make_folder(folder / "trials")
    begins = [Begin(str(view_of(run, folder, job)), str(run.file.path), run.file.text) for job in range(search.jobs)]
    with Study(folder, _name(run), space, seed=run.recipe.seed, least=search.objective in _LEAST,
               prune=search.prune) as study:
        with Pool(begins, folder) as pool:
            make_trials(study, pool, trials=search.trials, jobs=search.jobs, folder=folder / "trials", tell=tell)
        found = study.found(search.objective)
        if found is None:
            raise InvalidRequest(f"no trial came to a value; the first failed: {(study.failures() or ['?'])[0]}")
        rows = study.rows()
    files.publish_bytes(folder / TRIALS_FILE, msgspec.json.format(msgspec.json.encode(rows), indent=2), folder)
    plots.history(rows, found, folder / "history.png", least=search.objective in _LEAST)
    plots.importance(found, folder / "importance.png")
    tell(Moment(stage=STAGE, note=words(found)))
    return found


def words(found: Searched) -> str:
    """In one or two sentences, for people."""
    made = f"{found.trials} trials ({found.pruned} pruned, {found.failed} failed)"
    if not found.better:
        return f"{made}: none was better than the recipe as it is written, {found.objective} {found.default_value:.4g}"
    before = "the recipe as it is written failed" if found.default_value is None else \
        f"{found.default_value:.4g} with the recipe as it is written"
    matters = ", ".join(f"{key} {share:.0%}" for key, share in found.importance.items())
    return (f"{made}: {found.objective} {found.best_value:.4g} ({before}) with {shown(found.best)}"
            + (f"; what mattered: {matters}" if matters else ""))


SEARCH = StageKind(name=STAGE, wanted=_wanted, key=_key, run=_run)


def _name(run: Run) -> str:
    """Of the study: all that a trial's value depends on."""
    search, distil = searched(run.recipe), run.recipe.distil
    said = msgspec.to_builtins(search)
    del said["trials"], said["jobs"]
    answers = run.key("answers") if distil is not None and distil.answers is not None else None
    how = trained_by(run.recipe)
    if isinstance(how, Finetune):
        # Trials are made with trl and end before preferences are learned, whatever the training that follows does.
        how = msgspec.structs.replace(how, through="trl", preferences=None)
    models = [base_key(run, name) for name in models_of(how)] if isinstance(how, Student) else []
    by_metric = None if search.objective == "validation_loss" else run.recipe.evaluate
    return digest("search", said, how, run.recipe.seed, base_key(run), models, run.key("data"), answers, by_metric)


def view_of(run: Run, folder: Path, job: int) -> Path:
    """A run folder of one worker's own, which shows it what came before: what trials of a student leave in theirs (the
    teachers' soft targets) is not for others, who may have other settings."""
    view = folder / "workers" / str(job)
    files.make_folder(view.parent)
    files.make_folder(view)
    files.make_folder(run.folder / BASE_FOLDER)
    for name in (BASE_FOLDER, "data", "answers"):
        # Relative, so that they lead there wherever the run folder is.
        there = Path(os.path.relpath(run.folder / name, view))
        if (view / name).is_symlink() and (view / name).readlink() != there:
            files.remove(view / name)
        if (run.folder / name).is_dir() and not (view / name).is_symlink():
            (view / name).symlink_to(there, target_is_directory=True)
    return view


def _require_room(run: Run, tell: Tell) -> None:
    """For the trials that run at once. Raises InsufficientMemory, DeviceUnavailable, and what
    `training.estimate.check` raises."""
    search, facts = searched(run.recipe), probe()
    needs = check_needs(dataclasses.replace(run, recipe=as_tried(run.recipe)), tell, facts=facts)
    if search.jobs > max(1, facts.cpu.usable):
        raise run.file.mistake(("search", "jobs"), f"is more than the {facts.cpu.usable} cores that this process may "
                                                   "use", at_value=True)
    free_bytes = facts.memory.available
    if free_bytes is not None and search.jobs > 1 and needs.memory_bytes * search.jobs > free_bytes:
        raise InsufficientMemory(
            f"{search.jobs} trials at once need about {in_words(needs.memory_bytes * search.jobs)} of memory, and "
            f"{in_words(free_bytes)} are free; say jobs = {max(1, free_bytes // needs.memory_bytes)} in [search]")
    if needs.seconds is not None:
        minutes = needs.seconds * search.share * search.trials / 60
        tell(Moment(stage=STAGE, note=f"{search.trials} trials may take about {max(1, round(minutes))} minutes; those "
                                      "that are pruned take less"))


def check(run: Run) -> None:
    """What cannot be searched for. Raises ConfigError with the place."""
    search = searched(run.recipe)
    how = trained_by(run.recipe)
    table = "distil.student" if isinstance(how, Student) else "finetune"
    if search.objective == "judge" and run.recipe.evaluate.judge is None:
        raise run.file.mistake(("search", "objective"), "judge needs to know who judges; add [evaluate.judge] with "
                                                        "model and endpoint")
    for key in search.ranges:
        name = key.removeprefix(f"{table}.")
        reason = _NEVER.get(name.partition(".")[0])
        if search.objective in _LEAST and name in _NOT_BY_LOSS:
            reason = f"it changes what {search.objective} counts; take another objective, such as exact_match"
        if reason is not None:
            raise run.file.mistake(("search", "ranges", key), f"cannot be searched for: {reason}")
    parameters(run.recipe, run.file)
