"""What a run would do: for people and for scripts."""

from __future__ import annotations

from msgspec import Struct

from training import chain, opened
from training.run import Run

_WORDS = {
    "done": "has ended, and nothing has changed since", "changed": "runs again: what it depends on has changed",
    "new": "runs", "unknown": "runs, unless what comes before makes no difference to it",
}


class StagePlan(Struct, frozen=True, kw_only=True):
    """run: the name of the recipe whose stage it is."""

    run: str
    stage: str
    state: chain.State


class Plan(Struct, frozen=True, kw_only=True):
    folder: str
    stages: tuple[StagePlan, ...]

    def words(self) -> str:
        several = len({each.run for each in self.stages}) > 1
        names = [f"{each.run}/{each.stage}" if several else each.stage for each in self.stages]
        width = max(map(len, names), default=0)
        return "\n".join([f"in {self.folder}:", *(
            f"  {name:<{width}}  {_WORDS[each.state]}" for name, each in zip(names, self.stages, strict=True))])


def plan(run: Run) -> Plan:
    """Raises EdgedError of a key that cannot be told."""
    return Plan(folder=str(run.folder), stages=tuple(
        StagePlan(run=each.recipe.name, stage=one.name, state=one.state)
        for each in (*opened.members(run), run) for one in chain.standings(each) if one.state != "unwanted"))
