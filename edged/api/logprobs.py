"""Log probabilities as OpenAI writes them. JSON has no minus infinity; its place is taken by -9999, as theirs is."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from edged.types import TokenLogprob

FLOOR = -9999.0


class ChatTop(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTop]


def floored(logprob: float | None) -> float:
    return FLOOR if logprob is None or not logprob > FLOOR else logprob


def chat_tokens(tokens: Iterable[TokenLogprob]) -> list[ChatToken]:
    return [
        ChatToken(
            token.text, floored(token.logprob), list(token.raw),
            [ChatTop(text, floored(logprob), list(raw)) for _, text, raw, logprob in token.top],
        )
        for token in tokens
    ]
