"""Log probabilities as OpenAI writes them. JSON has no minus infinity; its place is taken by -9999, as theirs is."""

from __future__ import annotations

import codecs
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


class OldLogprobs(Struct, frozen=True):
    """The completions endpoint's form: parallel lists, one entry a token. text_offset counts characters of the
    choice's own text."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]

    @classmethod
    def joined(cls, parts: Iterable[OldLogprobs]) -> OldLogprobs:
        whole = cls([], [], [], [])
        for part in parts:
            whole.text_offset.extend(part.text_offset)
            whole.token_logprobs.extend(part.token_logprobs)
            whole.tokens.extend(part.tokens)
            whole.top_logprobs.extend(part.top_logprobs)
        return whole


def _old_text(text: str, raw: bytes) -> str:
    """OpenAI's way to write a token that is a part of a character: `bytes:\\xe2\\x82`."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
    return text


class TextLogprobs:
    """Log probabilities of one choice, piece by piece; keeps where in the text the next token begins."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def take(self, tokens: Iterable[TokenLogprob]) -> OldLogprobs:
        taken = OldLogprobs([], [], [], [])
        for token in tokens:
            taken.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(token.raw))
            taken.tokens.append(_old_text(token.text, token.raw))
            taken.token_logprobs.append(None if token.logprob is None else floored(token.logprob))
            taken.top_logprobs.append(None if token.logprob is None else _old_top(token, floored(token.logprob)))
        return taken


def _old_top(token: TokenLogprob, logprob: float) -> dict[str, float]:
    """The chosen token is among them though it be none of the most likely, as OpenAI says. Of two tokens with one text
    the likelier one is told."""
    told: dict[str, float] = {}
    for _, text, raw, value in token.top:
        told.setdefault(_old_text(text, raw), floored(value))
    told.setdefault(_old_text(token.text, token.raw), logprob)
    return told
