"""What a run would do: for people and for scripts."""

from __future__ import annotations

import dataclasses

from msgspec import Struct

from training import chain, estimate, opened
from training.chosen import chosen
from training.run import Moment, Run, StageName

_WORDS = {
    "done": "has ended, and nothing has changed since", "changed": "runs again: what it depends on has changed",
    "new": "runs", "unknown": "runs, unless what comes before makes no difference to it",
}


#: Stages that fit weights.
_FITS: tuple[StageName, ...] = ("student", "finetune")
_BEFORE: tuple[StageName, ...] = ("data", "answers", "search")


class StagePlan(Struct, frozen=True, kw_only=True):
    """run: the name of the recipe whose stage it is."""

    run: str
    stage: str
    state: chain.State


class Plan(Struct, frozen=True, kw_only=True):
    """needs: of the training, by the recipe's name, in words."""

    folder: str
    stages: tuple[StagePlan, ...]
    needs: dict[str, str] = {}

    def words(self) -> str:
        several = len({each.run for each in self.stages}) > 1
        names = [f"{each.run}/{each.stage}" if several else each.stage for each in self.stages]
        width = max(map(len, names), default=0)
        return "\n".join([f"in {self.folder}:", *(
            f"  {name:<{width}}  {_WORDS[each.state]}" for name, each in zip(names, self.stages, strict=True)),
            *(f"{name if several else 'the training'}: {said}" for name, said in self.needs.items())])


def plan(run: Run) -> Plan:
    """Raises EdgedError of a key that cannot be told, and of a training that cannot fit here."""
    stages, needs = [], {}
    for each in (*opened.members(run), run):
        standings = [one for one in chain.standings(each) if one.state != "unwanted"]
        stages += [StagePlan(run=each.recipe.name, stage=one.name, state=one.state) for one in standings]
        if any(one.name in _FITS and one.state != "done" for one in standings):
            needs[each.recipe.name] = _needs(each, {one.name: one.state for one in standings})
    return Plan(folder=str(run.folder), stages=tuple(stages), needs=needs)


def _needs(run: Run, states: dict[StageName, chain.State]) -> str:
    """states: of the stages that are wanted."""
    for before in _BEFORE:
        if states.get(before, "done") != "done":
            return f"what it needs of memory and time can be told once stage {before} has ended"
    told: list[Moment] = []
    estimate.check(dataclasses.replace(run, recipe=chosen(run.recipe, run)), told.append)
    return " ".join(moment.note for moment in told if moment.note is not None)
