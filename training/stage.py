"""What a stage of training is: a name, whether a recipe wants it, what it depends on, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.recipe import Recipe
from training.run import Run, StageName, Tell


@dataclass(frozen=True, slots=True)
class StageKind:
    """wanted: False where the recipe does without it. key: `training.run.digest` of all that the result depends on
    (tables of the recipe, digests of files, keys of the stages before); equal keys make equal results, so a stage that
    has ended with this key is passed over. run: does it, or goes on with it after a kill, and returns what `Run.value`
    gives to later stages, a msgspec struct. It raises EdgedError that says what to do."""

    name: StageName
    wanted: Callable[[Recipe], bool]
    key: Callable[[Run], str]
    run: Callable[[Run, Tell], object]
