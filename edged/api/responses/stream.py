"""Events of a generation as OpenAI's typed events, and the response that they add up to.

    created ─▶ in_progress ─▶ [ item added ─▶ part added ─▶ delta… ─▶ done ]… ─▶ completed, incomplete or failed
One item is open at a time: thoughts, then text, then each call.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from edged.api.logprobs import ChatToken, chat_tokens
from edged.api.responses import events
from edged.api.responses.events import ResponseBody, usage_body
from edged.api.responses.items import (
    FunctionCall,
    Item,
    Message,
    OutputText,
    ReasoningText,
    SummaryText,
    Thoughts,
    item_id,
)
from edged.errors import EdgedError
from edged.types import CallPiece, ChoiceEnd, Delta, Event, Finished, FinishReason, Started, TokenLogprob

if TYPE_CHECKING:
    from edged.daemon.status import Served


class _Numbers:
    """Sequence numbers of one stream."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self) -> int:
        number, self._next = self._next, self._next + 1
        return number


class _Text:
    def __init__(self, number: _Numbers, response_id: str, index: int, *, logprobs: bool) -> None:
        self._number, self._index = number, index
        self._id = item_id("msg", response_id, index)
        self._wants_logprobs = logprobs
        self._text: list[str] = []
        self._logprobs: list[ChatToken] = []

    def item(self, status: str) -> Message:
        return Message(self._id, "assistant", [self._part()], status)

    def _part(self) -> OutputText:
        return OutputText("".join(self._text), [], self._logprobs)

    def begin(self) -> Iterator[Struct]:
        yield events.ItemAdded(self._number(), self._index, Message(self._id, "assistant", [], "in_progress"))
        yield events.PartAdded(self._number(), self._index, self._id, 0, OutputText(""))

    def add(self, text: str, tokens: Iterable[TokenLogprob]) -> Iterator[Struct]:
        logprobs = chat_tokens(tokens) if self._wants_logprobs else []
        self._text.append(text)
        self._logprobs.extend(logprobs)
        if text or logprobs:
            yield events.TextDelta(self._number(), self._index, self._id, 0, text, logprobs)

    def end(self, status: str) -> Iterator[Struct]:
        part = self._part()
        yield events.TextDone(self._number(), self._index, self._id, 0, part.text, part.logprobs)
        yield events.PartDone(self._number(), self._index, self._id, 0, part)
        yield events.ItemDone(self._number(), self._index, self.item(status))


class _Thinking:
    """as_summary: the client asked for a summary of the thoughts; it gets all of them in that place."""

    def __init__(self, number: _Numbers, response_id: str, index: int, *, as_summary: bool) -> None:
        self._number, self._index, self._as_summary = number, index, as_summary
        self._id = item_id("rs", response_id, index)
        self._text: list[str] = []

    def item(self, status: str) -> Thoughts:
        text = "".join(self._text)
        if self._as_summary:
            return Thoughts(self._id, [SummaryText(text)], status=status)
        return Thoughts(self._id, [], [ReasoningText(text)], status)

    def begin(self) -> Iterator[Struct]:
        yield events.ItemAdded(self._number(), self._index, Thoughts(self._id, [], status="in_progress"))
        if self._as_summary:
            yield events.SummaryPartAdded(self._number(), self._index, self._id, 0, SummaryText(""))
        else:
            yield events.PartAdded(self._number(), self._index, self._id, 0, ReasoningText(""))

    def add(self, text: str) -> Iterator[Struct]:
        self._text.append(text)
        kind = events.SummaryDelta if self._as_summary else events.ReasoningDelta
        yield kind(self._number(), self._index, self._id, 0, text)

    def end(self, status: str) -> Iterator[Struct]:
        text = "".join(self._text)
        at = (self._index, self._id, 0)
        if self._as_summary:
            yield events.SummaryDone(self._number(), *at, text)
            yield events.SummaryPartDone(self._number(), *at, SummaryText(text))
        else:
            yield events.ReasoningDone(self._number(), *at, text)
            yield events.PartDone(self._number(), *at, ReasoningText(text))
        yield events.ItemDone(self._number(), self._index, self.item(status))


class _Call:
    def __init__(self, number: _Numbers, response_id: str, index: int, piece: CallPiece) -> None:
        self._number, self._index = number, index
        self._id = item_id("fc", response_id, index)
        self._call_id, self._name = piece.id, piece.name
        self.number = piece.call
        self._arguments: list[str] = []

    def item(self, status: str) -> FunctionCall:
        return FunctionCall(self._id, self._call_id, self._name, "".join(self._arguments), status)

    def begin(self) -> Iterator[Struct]:
        yield events.ItemAdded(self._number(), self._index, self.item("in_progress"))

    def add(self, arguments: str) -> Iterator[Struct]:
        self._arguments.append(arguments)
        if arguments:
            yield events.ArgumentsDelta(self._number(), self._index, self._id, arguments)

    def end(self, status: str) -> Iterator[Struct]:
        yield events.ArgumentsDone(self._number(), self._index, self._id, self._name, "".join(self._arguments))
        yield events.ItemDone(self._number(), self._index, self.item(status))


class ResponseStream:
    """sse.Streamed, and `body`: the response as it stands."""

    def __init__(self, begun: ResponseBody, *, logprobs: bool) -> None:
        """begun: what is known before anything is generated."""
        self.body = begun
        self._logprobs = logprobs
        self._as_summary = begun.reasoning.summary is not None
        self._number = _Numbers()
        self._done: list[Item] = []
        self._open: _Text | _Thinking | _Call | None = None
        self._told = False
        self._reason: FinishReason = "stop"

    def serve(self, served: Served) -> ResponseStream:
        self.body = replace(self.body, model=served.name)
        return self

    def queued(self) -> Iterator[Struct]:
        """First events of one that is made in the background."""
        self._told = True
        self.body = replace(self.body, status="queued")
        yield events.Created(self._number(), self.body)
        yield events.Queued(self._number(), self.body)

    def chunks(self, prompt: int, event: Event) -> Iterable[Struct]:
        match event:
            case Started():
                self.body = replace(self.body, status="in_progress")
                if not self._told:
                    self._told = True
                    yield events.Created(self._number(), self.body)
                yield events.InProgress(self._number(), self.body)
            case Delta(reasoning=reasoning, text=text, logprobs=tokens, calls=calls):
                if reasoning:
                    yield from self._think(reasoning)
                if text or (tokens and isinstance(self._open, _Text)):
                    yield from self._write(text, tokens)
                for piece in calls:
                    yield from self._call(piece)
            case ChoiceEnd(reason=reason):
                self._reason = reason
                if self._open is None and not self._done and reason != "length":
                    yield from self._write("", [])
                yield from self._close("incomplete" if reason == "length" else "completed")
            case Finished(usage=usage):
                self._end("incomplete" if self._reason == "length" else "completed")
                self.body = replace(self.body, usage=usage_body(usage))

    def closing(self) -> Iterator[Struct]:
        kind = events.IncompleteEvent if self.body.status == "incomplete" else events.Completed
        yield kind(self._number(), self.body)

    def failed(self, error: EdgedError) -> Iterator[Struct]:
        """In the middle: what was written so far stays in the response."""
        self._end("failed")
        self.body = replace(self.body, error=events.failure(error))
        if not self._told:
            yield events.Created(self._number(), replace(self.body, status="in_progress", error=None))
        yield events.FailedEvent(self._number(), self.body)

    def cancelled(self) -> None:
        """There is no event for it: the stream just ends."""
        self._end("cancelled")

    def look(self) -> ResponseBody:
        """The response so far, of one that is still being made."""
        written = [*self._done, self._open.item("in_progress")] if self._open is not None else list(self._done)
        return replace(self.body, output=written)

    def _end(self, status: str) -> None:
        if self._open is not None:
            self._done.append(self._open.item("incomplete"))
            self._open = None
        self.body = replace(
            self.body, status=status, output=self._done,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details=events.Incomplete() if status == "incomplete" else None,
        )

    def _think(self, text: str) -> Iterator[Struct]:
        if not isinstance(self._open, _Thinking):
            yield from self._close()
            self._open = _Thinking(self._number, self.body.id, len(self._done), as_summary=self._as_summary)
            yield from self._open.begin()
        yield from self._open.add(text)

    def _write(self, text: str, tokens: list[TokenLogprob]) -> Iterator[Struct]:
        if not isinstance(self._open, _Text):
            yield from self._close()
            self._open = _Text(self._number, self.body.id, len(self._done), logprobs=self._logprobs)
            yield from self._open.begin()
        yield from self._open.add(text, tokens)

    def _call(self, piece: CallPiece) -> Iterator[Struct]:
        if not isinstance(self._open, _Call) or self._open.number != piece.call:
            yield from self._close()
            self._open = _Call(self._number, self.body.id, len(self._done), piece)
            yield from self._open.begin()
        yield from self._open.add(piece.arguments)

    def _close(self, status: str = "completed") -> Iterator[Struct]:
        if self._open is not None:
            ended, self._open = self._open, None
            yield from ended.end(status)
            self._done.append(ended.item(status))


class ResponseAnswer:
    """sse.Collected: the response that the stream's events add up to."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream

    def add(self, prompt: int, event: Event) -> None:
        for _ in self._stream.chunks(prompt, event):
            pass

    def answer(self) -> ResponseBody:
        return self._stream.body
