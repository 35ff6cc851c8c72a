"""Patterns of JSON strings before llguidance reads them: a character that it has no way to write matches nothing.

JSON is written without `\\u` (see schema.py), so most control characters cannot be. llguidance 1.9 goes wrong with
them in two ways: where a pattern demands one of them it writes nothing in its place, and a class that has all of them,
such as `[^"]`, it takes for one with `"` and `\\` too. So each class, and each escape that can be such a character, is
written as a difference: `[[^"]--[…]]`, in the syntax of Rust's regex, which llguidance reads.
"""

from __future__ import annotations

import re

_NO_WAY = r"[\x00-\x07\x0b\x0e-\x1f\x7f]"
#: One such character, in text that no pattern is.
UNWRITABLE = re.compile(_NO_WAY)
_CODE = re.compile(
    r"\\(?:[xuU]\{[^}]*\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[pP](?:\{[^}]*\}|.)|[av])|" + _NO_WAY)
_NAMED_CLASS = re.compile(r"\[:\^?[a-z]+:\]")
#: A `]` that stands first is one of the class.
_OPENING = re.compile(r"\[\^?\]?")


def writable(pattern: str) -> str:
    """The same pattern for all text that can be written."""
    written, at = [], 0
    while at < len(pattern):
        code = _CODE.match(pattern, at)
        end = code.end() if code else _class_end(pattern, at)
        if end is None:
            end = at + (2 if pattern[at] == "\\" else 1)
            written.append(pattern[at:end])
        else:
            written.append(f"[{pattern[at:end]}--{_NO_WAY}]")
        at = end
    return "".join(written)


def _class_end(pattern: str, at: int) -> int | None:
    """Behind the class that begins here. None where none does, or it does not end, which llguidance then tells."""
    depth = 0
    while at < len(pattern):
        if named := depth and _NAMED_CLASS.match(pattern, at):
            at = named.end()
        elif opening := _OPENING.match(pattern, at):
            at, depth = opening.end(), depth + 1
        elif not depth:
            return None
        elif pattern[at] == "]":
            at, depth = at + 1, depth - 1
            if not depth:
                return at
        else:
            at += 2 if pattern[at] == "\\" else 1
    return None
