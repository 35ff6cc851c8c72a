"""An answer whose beginning the request gives: the prompt ends within the last message, where a template knows only
whole ones. So that message is rendered with a mark at its end, and the prompt is what stands before the mark."""

from __future__ import annotations

import secrets
from typing import Any

from edged.errors import InvalidRequest


def marked(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The messages with a mark at the end of the last one's content, and the mark, which nobody can know before."""
    mark = f"\ue000{secrets.token_hex(8)}\ue001"
    last = messages[-1]
    return [*messages[:-1], last | {"content": f"{last.get('content') or ''}{mark}"}], mark


def until_mark(text: str, mark: str) -> str:
    """Raises InvalidRequest where the template does not show the last message, or more than once."""
    before, found, after = text.partition(mark)
    if not found or mark in after:
        raise InvalidRequest(
            "This model's chat template cannot go on with the beginning of an answer. End with a message of the user.",
            param="messages")
    return before
