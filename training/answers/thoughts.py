"""What an answer says without the thought that it begins with, where an endpoint hands that on as text: servers do so
that were not told how the model writes its thoughts."""

from __future__ import annotations

import msgspec

from training.reply import Reply

_OPEN, _CLOSE = "<think>", "</think>"


def without_thought(reply: Reply) -> Reply:
    """The same one where it begins with none. One that was cut within its thought says nothing, and is unfinished. The
    opening tag is missing where the prompt ended with it."""
    head, closed, said = reply.message.content.partition(_CLOSE)
    opened = head.lstrip().startswith(_OPEN)
    if not opened and (not closed or _OPEN in head):
        return reply
    message = msgspec.structs.replace(reply.message, content=said.lstrip())
    return msgspec.structs.replace(reply, message=message, finish_reason=reply.finish_reason if closed else "length")
