"""What a search ended with: frozen structs, no I/O."""

from __future__ import annotations

from msgspec import Struct

#: Of one key of the recipe.
Setting = str | float | int | bool


class Searched(Struct, frozen=True, kw_only=True):
    """best: value by key of the recipe, of the best trial; best_value: its objective. default_value: that of the recipe
    as it is written, which is trial 0, None where that failed. trials: all that were made, pruned and failed ones among
    them. better: the best is better than the recipe as it is written. importance: by key, its share of what made the
    trials' values differ (fANOVA, Hutter et al. 2014); empty where there are too few trials to tell. seconds: of all
    trials together."""

    objective: str
    best: dict[str, Setting]
    best_value: float
    default_value: float | None
    trials: int
    pruned: int
    failed: int
    better: bool
    importance: dict[str, float] = {}
    seconds: float = 0.0
