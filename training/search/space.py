"""What a search may vary: the recipe's ranges as checked parameters, and recipes with other values. No I/O."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from edged.toml_file import TomlFile, nearest
from training.recipe import Range, Recipe
from training.search.found import Setting


class Parameter(Struct, frozen=True, kw_only=True):
    """One key that varies. kind whole and number: between low and high, both included, on a grid of step where there is
    one, evenly in the logarithm where log. choices: of kind choice."""

    key: str
    default: Setting
    kind: Literal["number", "whole", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Setting, ...] = ()


def parameters(recipe: Recipe, file: TomlFile) -> tuple[Parameter, ...]:
    """Of the recipe's [search.ranges], by key. Raises ConfigError with the place: a key that is none, a range that the
    key does not allow, or one that leaves out the recipe's own value, which trial 0 has."""
    assert recipe.search is not None
    return tuple(_parameter(key, said, recipe, file) for key, said in sorted(recipe.search.ranges.items()))


def with_values(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """values: of a recipe's file. A copy in which the dotted keys of settings have those values."""
    changed = copy.deepcopy(dict(values))
    for key, setting in settings.items():
        *tables, name = key.split(".")
        table = changed
        for each in tables:
            table = table.setdefault(each, {})
        table[name] = setting
    return changed


def _parameter(key: str, said: Range, recipe: Recipe, file: TomlFile) -> Parameter:
    def mistake(message: str) -> Exception:
        return file.mistake(("search", "ranges", key), message)

    table: Any = recipe
    *tables, name = key.split(".")
    for each in tables:
        table = _field(table, each, key, mistake)
        if table is None:
            raise mistake(f"varies a key of a table that the recipe does not have ([{'.'.join(tables)}])")
    default = _field(table, name, key, mistake)
    if isinstance(default, Struct):
        raise mistake(f"is a table; name one of its keys, as in \"{key}.{default.__struct_fields__[0]}\"")
    for value in said.choices or (said.low, said.high):
        _check(key, value, recipe, file, mistake)
    if said.choices:
        if default not in said.choices:
            raise mistake(f"has choices without the recipe's own value, {default!r}; add it: what is found is compared "
                          "with it")
        return Parameter(key=key, default=default, kind="choice", choices=said.choices)
    return _between(key, said, default, _is_whole(type(table), name), mistake)


def _between(key: str, said: Range, default: Any, whole: bool, mistake: Any) -> Parameter:
    low, high = said.low, said.high
    assert low is not None
    assert high is not None
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise mistake(f"has low and high, and the recipe's own value is {default!r}; give choices")
    if said.log and (low <= 0 or said.step is not None):
        raise mistake("with log needs low above 0, and no step")
    if whole and said.step is not None and said.step != int(said.step):
        raise mistake("is a whole number, and so must be its step")
    step = said.step or (1.0 if whole and not said.log else None)
    if step is not None:
        high = low + int((high - low) / step + 1e-9) * step
    if not low <= default <= high:
        raise mistake(f"leaves out the recipe's own value, {default}; widen it, or change the value: what is found is "
                      "compared with it")
    if step is not None and abs((default - low) / step - round((default - low) / step)) > 1e-9:
        raise mistake(f"steps over the recipe's own value, {default}; what is found is compared with it")
    return Parameter(key=key, default=default, kind="whole" if whole else "number", low=low, high=high, log=said.log,
                     step=step)


def _field(table: Any, name: str, key: str, mistake: Any) -> Any:
    known = table.__struct_fields__ if isinstance(table, Struct) else ()
    if name not in known:
        raise mistake(f"is no key of the recipe{nearest(name, known)}")
    return getattr(table, name)


def _check(key: str, value: Setting | None, recipe: Recipe, file: TomlFile, mistake: Any) -> None:
    """That the key takes it. A whole number may be written 8.0 in a range."""
    assert value is not None
    said = int(value) if isinstance(value, float) and value.is_integer() else value
    try:
        msgspec.convert(with_values(file.values, {key: said}), Recipe)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at ")[0]
        raise mistake(f"cannot be {value}: {reason[:1].lower()}{reason[1:]}") from None


def _is_whole(table: type[Struct], name: str) -> bool:
    hint: Any = get_type_hints(table, include_extras=True)[name]
    while get_origin(hint) is Annotated or type(None) in get_args(hint):
        hint = get_args(hint)[0]
    return hint is int
