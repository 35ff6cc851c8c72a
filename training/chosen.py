"""The recipe that the last training follows: with what a search found, where that is better than what is written."""

from __future__ import annotations

from training.recipe import Recipe, decoded
from training.run import Run
from training.search.found import Searched
from training.search.space import with_values


def chosen(recipe: Recipe, run: Run) -> Recipe:
    """recipe: that of the run. Raises InvalidRequest where it asks for a search that has not ended."""
    if recipe.search is None:
        return recipe
    found = run.value("search", Searched)
    return decoded(run.file, with_values(run.file.values, found.best)) if found.better else recipe
