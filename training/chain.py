"""The stages in their order, and which of them a recipe still needs.

A stage is passed over where it has ended with just the key that it would end with now. Keys hold those of the stages
before, so a change runs what depends on it and nothing else.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edged.errors import InvalidRequest
from edged.store import files
from training import apart, opened
from training.evaluate.owned import left_elsewhere
from training.run import Moment, Run, StageName, Tell
from training.stage import StageKind

#: Of a recipe with members: they have the stages before in runs of their own.
OF_GROUPS: tuple[StageName, ...] = ("deploy", "served")
#: Where each stage is, in the order in which they run. Loading one imports no heavy library.
PLACES: dict[StageName, str] = {
    "data": "training.data.stage:DATA",
    "answers": "training.answers.stage:ANSWERS",
    "search": "training.search.stage:SEARCH",
    "student": "training.student.stage:STUDENT",
    "finetune": "training.finetune.stage:FINETUNE",
    "evaluate": "training.evaluate.stage:EVALUATE",
    "export": "training.export.stage:EXPORT",
    "deploy": "training.deploy.stage:DEPLOY",
    "served": "training.deploy.served_stage:SERVED_STAGE",
}
#: How a recipe asks for a stage that it does without.
_TABLES: dict[StageName, str] = {
    "data": "[data]", "answers": "[distil.answers]", "search": "[search]", "student": "[distil.student]",
    "finetune": "[finetune]", "evaluate": "[evaluate]", "export": "[export]", "deploy": "[deploy]",
    "served": "[deploy]",
}

OF_MEMBERS: tuple[StageName, ...] = tuple(name for name in PLACES if name not in OF_GROUPS)

Find = Callable[[StageName], StageKind]
#: Does a stage, and returns what the stage returned, or that as JSON.
Do = Callable[[Run, StageKind, Tell], object]
#: changed: it has ended, with another key. unknown: its key depends on a stage that is still to run.
State = Literal["unwanted", "done", "changed", "new", "unknown"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one stage of a run stands."""

    name: StageName
    state: State


def stage(name: StageName) -> StageKind:
    module, _, constant = PLACES[name].partition(":")
    kind: StageKind = getattr(importlib.import_module(module), constant)
    return kind


def wanted(run: Run, kind: StageKind) -> bool:
    if run.recipe.members and kind.name not in OF_GROUPS:
        return False
    return kind.wanted(run.recipe)


def standings(run: Run, *, find: Find = stage) -> list[Standing]:
    """Of every stage, in order; of a group, whose stages wait for those of its members. Raises EdgedError of a key that
    cannot be told, such as a data file that is not there."""
    found: list[Standing] = []
    waits = any(each.state not in ("unwanted", "done")
                for member in opened.members(run) for each in standings(member, find=find))
    for name in PLACES:
        kind = find(name)
        if not wanted(run, kind):
            found.append(Standing(name, "unwanted"))
        elif waits:
            found.append(Standing(name, "unknown"))
        elif run.is_done(name, kind.key(run)):
            found.append(Standing(name, "done"))
        else:
            found.append(Standing(name, "changed" if run.ended(name) else "new"))
            waits = True
    return found


def run_stage(
    run: Run, name: StageName, tell: Tell, *, again: bool = False, find: Find = stage, do: Do = apart.do,
) -> None:
    """One stage alone. Raises InvalidRequest where the recipe does without it, or where an earlier one, of the run or
    of a group's members, has to run first; what the stage raises."""
    if not wanted(run, find(name)):
        raise InvalidRequest(f"{run.file.path} has no {_TABLES[name]}, so there is nothing for stage {name} to do")
    for member in opened.members(run):
        for earlier in OF_MEMBERS:
            # Alone, a member may export something else than for its group.
            _require_done(member, find(earlier), name, command=f"run --recipe {run.file.path}")
    for earlier in PLACES:
        if earlier == name:
            break
        _require_done(run, find(earlier), name)
    _bring_up(run, find(name), tell, do, again=again)


def run_stages(
    run: Run, tell: Tell, *, names: Sequence[StageName] = tuple(PLACES), again: bool = False, find: Find = stage,
    do: Do = apart.do,
) -> None:
    """Those of the named stages that the recipe wants and that have not ended as they would now, in the chain's order.
    Raises InvalidRequest where one that is not named has to run before a named one; what a stage raises."""
    kinds = [kind for name in PLACES if wanted(run, kind := find(name))]
    last = max((index for index, kind in enumerate(kinds) if kind.name in names), default=-1)
    for index, kind in enumerate(kinds[:last + 1]):
        if kind.name in names:
            _bring_up(run, kind, tell, do, again=again)
        else:
            _require_done(run, kind, next(each.name for each in kinds[index:] if each.name in names))


def _require_done(run: Run, kind: StageKind, before: StageName, *, command: str | None = None) -> None:
    """As it would end now, where the recipe wants it. command: that does it; None: that of the stage alone."""
    if wanted(run, kind) and not run.is_done(kind.name, kind.key(run)):
        why = "has changed since it ended" if run.ended(kind.name) else "has not ended"
        raise InvalidRequest(
            f"stage {kind.name} of {run.recipe.name} comes before {before} and {why}; run it: python -m training "
            f"{command or f'{kind.name} --recipe {run.file.path}'}")


def _bring_up(run: Run, kind: StageKind, tell: Tell, do: Do, *, again: bool) -> None:
    key = kind.key(run)
    if again:
        _forget(run, kind.name)
    elif run.is_done(kind.name, key):
        tell(Moment(stage=kind.name, what="done before", fraction=1.0))
        return
    run.begin(kind.name)
    tell(Moment(stage=kind.name, fraction=0.0))
    began_s = time.monotonic()
    value = do(run, kind, tell)
    run.mark(kind.name, key, time.monotonic() - began_s, value)
    tell(Moment(stage=kind.name, what="done", fraction=1.0))


def _forget(run: Run, name: StageName) -> None:
    """With nothing of it left, later stages have not ended either, though their keys may be the same again: what they
    made was made of what is no more. Markers go first, so that none ever says that something is there which is not."""
    order = list(PLACES)
    for later in reversed(order[order.index(name) + 1:]):
        run.unmark(later)
    if run.path(name).exists():
        run.begin(name)
        files.remove_tree(run.path(name))
    for path in left_elsewhere(run, name):
        (files.remove_tree if path.is_dir() and not path.is_symlink() else files.remove)(path)
