"""`context` of /api/generate: the conversation so far, as the list of integers that Ollama's clients hand back.

Ollama documents it as "an encoding of the conversation". There it is the tokens of one model, onto which a next prompt
is pasted: its template's opening and default system message then stand in the middle. Here it is the messages, so that
the next prompt is rendered as one conversation, whichever model answers. The first number says that it is ours; the
others are the characters of the messages' JSON.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from edged.api.fields import takes, wrong

Turns = list[dict[str, str]]

#: Larger than any token id that a client may have from another server, and than any character.
_MARK = 0x0ED6_ED01
_EXPECTED = "the `context` that an earlier answer of this server gave, unchanged"


class _Turn(Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    content: str


_decoder = msgspec.json.Decoder(list[_Turn])
_ROLES = ("system", "user", "assistant")


def encode(turns: Turns) -> list[int]:
    return [_MARK, *map(ord, msgspec.json.encode(turns).decode())]


@takes({"type": "array", "items": {"type": "integer"}})
def decode(value: Any, path: str) -> Turns:
    """Raises InvalidRequest for what `encode` has not made; an empty list is no conversation."""
    if value == []:
        return []
    if not isinstance(value, list) or not all(type(number) is int for number in value) or value[0] != _MARK:
        raise wrong(path, _EXPECTED)
    try:
        turns = _decoder.decode("".join(map(chr, value[1:])).encode())
    except (ValueError, OverflowError, msgspec.MsgspecError):
        raise wrong(path, _EXPECTED) from None
    if not all(turn.role in _ROLES for turn in turns):
        raise wrong(path, _EXPECTED)
    return [{"role": turn.role, "content": turn.content} for turn in turns]
