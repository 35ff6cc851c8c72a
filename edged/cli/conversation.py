"""A conversation with one model: what was said so far, how answers are sampled, and the next answer as it comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from edged.cli.client import Client, stream_error
from edged.errors import InvalidRequest


class _Delta(Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(Struct, frozen=True):
    delta: _Delta


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """thinking: what a reasoning model says to itself."""

    text: str
    thinking: bool = False


#: What `/set` and the command's options may change, and how it is read.
SAMPLING: dict[str, type[int] | type[float]] = {
    "temperature": float, "top_p": float, "top_k": int, "min_p": float, "max_tokens": int, "seed": int,
    "repetition_penalty": float, "presence_penalty": float, "frequency_penalty": float,
}


@dataclass(slots=True)
class Conversation:
    client: Client
    model: str
    system: str | None = None
    sampling: dict[str, int | float] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)
    #: Of the last answer; for people.
    stats: str = ""

    def set(self, name: str, written: str) -> None:
        """`default` takes the setting away. Raises InvalidRequest."""
        if (kind := SAMPLING.get(name)) is None:
            raise InvalidRequest(f"there is no setting {name!r}; there are {', '.join(SAMPLING)}")
        if written == "default":
            self.sampling.pop(name, None)
            return
        try:
            self.sampling[name] = kind(written)
        except ValueError:
            raise InvalidRequest(f"{name} is a {'whole ' if kind is int else ''}number, or default") from None

    def clear(self) -> None:
        self.turns.clear()

    def request(self, said: str) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, "messages": [*system, *self.turns, {"role": "user", "content": said}],
                **self.sampling}

    def ask(self, said: str) -> Iterator[Piece]:
        """The answer in pieces. Both turns are remembered, an answer that was stopped as far as it came; nothing is
        where there was no answer at all. Close the iterator to stop it."""
        body = {**self.request(said), "stream": True, "stream_options": {"include_usage": True}}
        answer: list[str] = []
        first_s, began_s = None, time.monotonic()
        try:
            with contextlib.closing(self.client.events("/v1/chat/completions", body)) as events:
                for data in events:
                    if data == b"[DONE]":
                        break
                    if (error := stream_error(data)) is not None:
                        raise error
                    chunk = msgspec.json.decode(data, type=_Chunk)
                    for choice in chunk.choices:
                        for piece in _pieces(choice.delta):
                            first_s = first_s if first_s is not None else time.monotonic()
                            if not piece.thinking:
                                answer.append(piece.text)
                            yield piece
                    if chunk.usage is not None and first_s is not None:
                        self.stats = _stats(chunk.usage, first_s - began_s, time.monotonic() - first_s)
        finally:
            if answer:
                self.turns += [{"role": "user", "content": said}, {"role": "assistant", "content": "".join(answer)}]


def _pieces(delta: _Delta) -> Iterator[Piece]:
    if delta.reasoning_content:
        yield Piece(delta.reasoning_content, thinking=True)
    if delta.content:
        yield Piece(delta.content)


def _stats(usage: _Usage, wait_s: float, decode_s: float) -> str:
    rate = f", {(usage.completion_tokens - 1) / decode_s:.1f} tokens/s" if usage.completion_tokens > 1 else ""
    return (f"{usage.prompt_tokens} tokens read, first token after {wait_s:.2f} s, {usage.completion_tokens} tokens "
            f"written{rate}")
