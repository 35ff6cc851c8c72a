"""One answer as Ollama's clients read it: pieces of text, thinking, calls and log probabilities, and how it ended.

`/api/chat` and `/api/generate` differ only in the shape of a line; both are told the same pieces here, streamed or
folded into one, so that the two cannot differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from edged.api.logprobs import ChatToken, chat_tokens
from edged.api.ollama.wire import OLLAMA
from edged.errors import EdgedError
from edged.types import CallPiece, ChoiceEnd, Delta, Event, Finished, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served


class CallFunction(Struct, frozen=True):
    """index: the call's number within the answer."""

    name: str
    arguments: dict[str, Any]
    index: int


class CallBody(Struct, frozen=True):
    id: str
    function: CallFunction


class Piece(Struct, frozen=True):
    text: str = ""
    thinking: str = ""
    calls: list[CallBody] = []
    logprobs: list[ChatToken] = []


class Ending(Struct, frozen=True):
    """text: of the whole answer, without thinking and calls. Durations in ns. load: until a worker had the request,
    next to nothing where the model was loaded. prompt_eval: from its start there to its first token; eval: from then
    to its end."""

    text: str
    reason: str
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339; now, or so many seconds since 1970."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """At least 1: clients divide by it."""
    return max(1, round(seconds * 1e9))


class Turn:
    """The events of one choice as pieces. Made when a worker has the request."""

    def __init__(self, *, received_at: float, asked_at: float, logprobs: bool) -> None:
        """Both of time.monotonic(): when the request came, and when it was understood."""
        self._received_at, self._asked_at, self._given_at = received_at, asked_at, time.monotonic()
        self._ended_at = self._prompt_s = self._answer_s = 0.0
        self._logprobs = logprobs
        self._text: list[str] = []
        self._call: CallPiece | None = None
        self._arguments: list[str] = []
        self._reason = ""
        self._usage = Usage(0, 0)

    def pieces(self, event: Event) -> Iterator[Piece]:
        match event:
            case Delta():
                yield from self._delta(event)
            case ChoiceEnd(reason=reason):
                yield from self._whole_call()
                self._reason = "length" if reason == "length" else "stop"
            case Finished(usage=usage, prompt_s=prompt_s, answer_s=answer_s):
                self._usage, self._prompt_s, self._answer_s = usage, prompt_s, answer_s
                self._ended_at = time.monotonic()

    def _delta(self, delta: Delta) -> Iterator[Piece]:
        logprobs = chat_tokens(delta.logprobs) if self._logprobs else []
        if delta.text or delta.reasoning or logprobs:
            self._text.append(delta.text)
            yield Piece(delta.text, delta.reasoning, logprobs=logprobs)
        for piece in delta.calls:
            if self._call is None or piece.call != self._call.call:
                yield from self._whole_call()
                self._call = piece
            self._arguments.append(piece.arguments)

    def _whole_call(self) -> Iterator[Piece]:
        """Ollama tells a call whole. One whose arguments are no object, which only an answer that was cut can have,
        is told as the text it is: nothing of it is lost, and nothing is made up."""
        call, said = self._call, "".join(self._arguments)
        self._call, self._arguments = None, []
        if call is None:
            return
        try:
            arguments = msgspec.json.decode(said or "{}")
        except msgspec.DecodeError:
            arguments = None
        if isinstance(arguments, dict):
            yield Piece(calls=[CallBody(call.id, CallFunction(call.name, arguments, call.call))])
        else:
            self._text.append(f"{call.name} {said}")
            yield Piece(f"{call.name} {said}")

    def ending(self) -> Ending:
        return Ending(
            text="".join(self._text), reason=self._reason,
            total_duration=nanoseconds(self._ended_at - self._received_at),
            load_duration=nanoseconds(self._given_at - self._asked_at),
            prompt_eval_count=self._usage.prompt_tokens, prompt_eval_duration=nanoseconds(self._prompt_s),
            eval_count=self._usage.completion_tokens, eval_duration=nanoseconds(self._answer_s),
        )


#: A line of the answer: what is new, and the ending with the last one.
Line = Callable[[Piece, Ending | None], Struct]
Made = Callable[[], Turn]


class OllamaStream:
    def __init__(self, made: Made, line: Line, served: Served) -> None:
        self._turn, self._line = made(), line

    def chunks(self, prompt: int, event: Event) -> Iterator[Struct]:
        for piece in self._turn.pieces(event):
            yield self._line(piece, None)

    def closing(self) -> Iterator[Struct]:
        yield self._line(Piece(), self._turn.ending())

    def failed(self, error: EdgedError) -> Iterator[Struct]:
        yield OLLAMA.error(error)


class OllamaAnswer:
    """The pieces of the stream, put together."""

    def __init__(self, made: Made, line: Line, served: Served) -> None:
        self._turn, self._line = made(), line
        self._pieces: list[Piece] = []

    def add(self, prompt: int, event: Event) -> None:
        self._pieces.extend(self._turn.pieces(event))

    def answer(self) -> Struct:
        pieces = self._pieces
        whole = Piece(
            "".join(piece.text for piece in pieces), "".join(piece.thinking for piece in pieces),
            [call for piece in pieces for call in piece.calls],
            [token for piece in pieces for token in piece.logprobs],
        )
        return self._line(whole, self._turn.ending())
