"""How one setting is read from a text or a TOML value, checked, and written for people: one `Kind` each.

Environment and flags give texts, TOML gives texts, numbers, booleans and lists, code gives the value itself: every kind
takes all of them. pydantic could do this too, for 60 ms of each start of the daemon.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}
#: No number may be larger, so that all of them fit wherever they are sent; it also keeps out infinity, and nan.
MOST = 2**63 - 1
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Kind:
    """type: what may stand there, in words. read: the value to keep, or ValueError with what it must be, never with
    what was given (it may be a secret). choices: where only these are right. secret: shown nowhere."""

    type: str
    read: Callable[[object], Any]
    write: Callable[[Any], str] = str
    choices: tuple[str, ...] = ()
    secret: bool = False


class SecretStr:
    """A text that `repr` and `str` do not tell."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "SecretStr('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def hash_key(key: str) -> str:
    """`sha256:<64 hex>`, the only form in which edged keeps an API key. Keys are random and long, so that a plain
    hash is enough."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def one_of(literal: object) -> Kind:
    """literal: the `Literal[...]` of texts that the setting's type is."""
    choices = get_args(literal)
    told = "one of " + ", ".join(choices)

    def read(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(told)

    return Kind(told, read, choices=choices)


def whole(least: int, most: int = MOST) -> Kind:
    told = f"a whole number from {least} to {most}" if most < MOST else f"a whole number of at least {least}"

    def read(value: object) -> int:
        found = _number(value, told)
        if found != int(found) or not least <= found <= most:
            raise ValueError(told)
        return int(found)

    return Kind("a whole number", read)


def number(*, least: float | None = None, above: float | None = None) -> Kind:
    told = f"a number of at least {least:g}" if least is not None else f"a number above {above:g}"

    def read(value: object) -> float:
        found = float(_number(value, told))
        if (least is not None and found < least) or (above is not None and found <= above):
            raise ValueError(told)
        return found

    return Kind("a number", read)


def or_off(kind: Kind) -> Kind:
    """`off`, or None in code, is None."""
    return replace(kind, read=lambda value: None if value in ("off", None) else kind.read(value),
                   write=lambda value: "" if value is None else kind.write(value))


def _number(value: object, told: str) -> int | float:
    """Finite, told: the message for what is no number."""
    if isinstance(value, bool):
        raise ValueError(f"{told}, not true or false")
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise ValueError(told) from None
    if not isinstance(value, int | float) or not abs(value) <= MOST:
        raise ValueError(told)
    return value


def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("a text, not empty")


def _secret(value: object) -> SecretStr:
    return value if isinstance(value, SecretStr) else SecretStr(_text(value))


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    said = value.strip().lower() if isinstance(value, str) else None
    if said in _TRUE or said in _FALSE:
        return said in _TRUE
    raise ValueError("true or false")


def _path(value: object) -> Path:
    if isinstance(value, str | Path) and str(value):
        return Path(os.path.expanduser(value))
    raise ValueError("a path")


def _web_address(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        return value.rstrip("/")
    raise ValueError("an address like https://huggingface.co")


def _size(value: object) -> int:
    told = "a size like 4GiB, above 0"
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower())
        if found is None or found[2] not in _SIZE_UNITS:
            raise ValueError(told)
        value = math.floor(_number(found[1], told) * _SIZE_UNITS[found[2]])
    size = _number(value, told)
    if size != int(size) or size <= 0:
        raise ValueError(told)
    return int(size)


def _size_or_none(value: object) -> int:
    if value in (0, "0") and not isinstance(value, bool):
        return 0
    try:
        return _size(value)
    except ValueError:
        raise ValueError("a size like 4GiB, or 0") from None


def _written_size(size: int) -> str:
    """In the largest unit that says it exactly."""
    if not size:
        return "0"
    for name in ("TiB", "GiB", "MiB", "KiB"):
        if size % (unit := _SIZE_UNITS[name.lower()]) == 0:
            return f"{size // unit}{name}"
    return str(size)


def _list(value: object, told: str) -> tuple[str, ...]:
    """Lists may be written with commas, which is what an environment variable or a flag can hold."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple) and all(isinstance(part, str) and part for part in value):
        return tuple(value)
    raise ValueError(told)


def _command(value: object) -> tuple[str, ...]:
    """A text is cut as a shell would."""
    told = "a program and its arguments, as a list of texts or as a shell has it"
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError:
            raise ValueError(told) from None
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value) and (not value or value[0]):
        return tuple(value)
    raise ValueError(told)


def _keys(value: object) -> tuple[str, ...]:
    parts = _list(value, "a list of keys, each a text or sha256:<64 hex digits>")
    for part in parts:
        if part.startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-f]{64}", part):
            raise ValueError("after sha256: come 64 hex digits in lower case (`printf %s KEY | sha256sum`)")
    return tuple(part if part.startswith("sha256:") else hash_key(part) for part in parts)


TEXT = Kind("a text", _text)
SECRET = Kind("a text", _secret, secret=True)
BOOLEAN = Kind("true or false", _boolean, lambda value: str(value).lower())
PATH = Kind("a path", _path)
WEB_ADDRESS = Kind("a text", _web_address)
SIZE = Kind("a size like 4GiB", _size, _written_size)
SIZE_OR_NONE = Kind("a size like 4GiB, or 0", _size_or_none, _written_size)
NAMES = Kind("a list of texts", lambda value: _list(value, "a list of texts"), ", ".join)
COMMAND = Kind("a list of texts", _command, shlex.join)
KEYS = Kind("a list of texts", _keys, secret=True)
