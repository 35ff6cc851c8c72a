"""JSON that was cut off: what of it is whole. A call that ran into `max_tokens` is told as far as it came."""

from __future__ import annotations

from typing import Any

import msgspec


def whole_part(text: str) -> dict[str, Any]:
    """The object as far as its members are complete; `{}` where there is none. What the official clients' parser of
    partial JSON makes of the same text: half of a string is left out, a number at the end is taken as it stands."""
    closers: list[str] = []
    #: A beginning that ends after a member, and what closes it.
    whole, closing = "", ""
    in_string = escaped = False
    for index, character in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "{[":
            closers.append("}" if character == "{" else "]")
            whole, closing = text[: index + 1], "".join(reversed(closers))
        elif character in "}]" and closers:
            closers.pop()
            whole, closing = text[: index + 1], "".join(reversed(closers))
        elif character == ",":
            whole, closing = text[:index], "".join(reversed(closers))
    for candidate in (text + "".join(reversed(closers)), whole + closing):
        try:
            found = msgspec.json.decode(candidate)
        except msgspec.DecodeError:
            continue
        return found if isinstance(found, dict) else {}
    return {}
