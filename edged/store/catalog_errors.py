"""From msgspec's refusal of a table to the line of the file: which key, what is wrong, what would be right."""

from __future__ import annotations

import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from edged.errors import ConfigError
from edged.toml_file import KeyPath, TomlFile, nearest

_WORDS: dict[object, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list", list: "a list",
    dict: "a table",
}
_MESSAGE = re.compile(r"(?P<message>.*?)(?: - at (?:`key` in )?`\$(?P<place>.*)`)?", re.DOTALL)
_PLACE_PART = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def explain(error: msgspec.ValidationError, file: TomlFile, table: KeyPath, shape: type[msgspec.Struct]) -> ConfigError:
    """error: of `msgspec.convert(value of table, shape)`."""
    found = _MESSAGE.fullmatch(str(error))
    message, place = (found["message"], found["place"] or "") if found else (str(error), "")
    inner = tuple(
        int(part[2]) if part[2] else part[1] for part in _PLACE_PART.finditer(place.split("[...]")[0])
    )
    path = (*table, *inner)
    hint: object = shape
    value: Any = file.values
    for part in table:
        value = value[part]
    for part in inner:
        hint = _hint_within(hint, part, value)
        value = value[part]
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        known = _fields(hint, value)
        return file.mistake(
            (*path, unknown[1]), f"there is no such key{nearest(unknown[1], known)} (known here: {', '.join(known)})"
        )
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
        return file.mistake(path, f"lacks {missing[1]}, {_meaning(_hint_within(hint, missing[1], value))}")
    near = nearest(value, _choices(hint)) if isinstance(value, str) else ""
    return file.mistake(path, f"must be {_meaning(hint)}, not {_shown(value)}{near}", at_value=True)


def _hint_within(hint: object, part: str | int, value: object) -> object:
    """The type of one key or item of `hint`; value tells which member of a tagged union it is."""
    inner, _ = _plain(hint)
    if isinstance(part, int):
        return get_args(inner)[0]
    members = _members(inner)
    if part == "from" and len(members) > 1:
        return Literal[tuple(str(member.__struct_config__.tag) for member in members)]
    return get_type_hints(_member(members, value), include_extras=True)[part]


def _fields(hint: object, value: object) -> list[str]:
    member = _member(_members(_plain(hint)[0]), value)
    tag_field = member.__struct_config__.tag_field
    return sorted([*member.__struct_fields__, *([tag_field] if tag_field else [])])


def _members(inner: object) -> list[type[msgspec.Struct]]:
    return [member for member in (get_args(inner) or (inner,))
            if isinstance(member, type) and issubclass(member, msgspec.Struct)]


def _member(members: list[type[msgspec.Struct]], value: object) -> type[msgspec.Struct]:
    said = value.get("from") if isinstance(value, dict) else None
    return next((member for member in members if member.__struct_config__.tag == said), members[0])


def _plain(hint: object) -> tuple[object, Meta]:
    """hint without Annotated and None, and the Meta that was on it."""
    meta = Meta()
    while True:
        if get_origin(hint) is Annotated:
            hint, meta = get_args(hint)[0], next(part for part in get_args(hint)[1:] if isinstance(part, Meta))
        elif get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
            hint = get_args(hint)[0]
        else:
            return hint, meta


def _choices(hint: object) -> list[str]:
    inner, _ = _plain(hint)
    return [str(choice) for choice in get_args(inner)] if get_origin(inner) is Literal else []


def _meaning(hint: object) -> str:
    """What may stand there, in words."""
    if choices := _choices(hint):
        return "one of " + ", ".join(choices)
    inner, meta = _plain(hint)
    if meta.description:
        return meta.description
    word = _WORDS.get(get_origin(inner) or inner, "a table")
    if meta.ge is not None and meta.le is not None:
        return f"{word} from {meta.ge:g} to {meta.le:g}" if abs(meta.le) < 1e6 else f"{word} of at least {meta.ge:g}"
    if meta.gt is not None:
        return f"{word} above {meta.gt:g}, at most {meta.le:g}"
    return f"{word}, not empty" if meta.min_length else word


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, bool):
        return str(value).lower()
    written = f'"{value}"' if isinstance(value, str) else str(value)
    return written if len(written) <= 60 else f"{written[:57]}…"
