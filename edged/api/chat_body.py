"""Answers of /v1/chat/completions, streamed and whole: text, thoughts and calls in OpenAI's shapes. Thoughts are in
`reasoning_content`, as DeepSeek's API names them and other servers after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET, Struct, UnsetType, json

from edged.api.logprobs import ChatToken, chat_tokens
from edged.api.usage import UsageBody, fingerprint, usage_body
from edged.api.wire import OPENAI
from edged.errors import EdgedError
from edged.types import CallPiece, ChoiceEnd, Delta, Event, Finished, Started, TokenLogprob, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

Head = tuple[str, int]
_encoder = json.Encoder()
#: Stands for a text in a frame of which the rest is wanted; nothing else in a chunk can hold control characters.
_TEXT = "\x00text\x00"


class Wanted(NamedTuple):
    """What shapes an answer. may_call: it may hold calls instead of text."""

    n: int
    logprobs: bool
    may_call: bool
    usage: bool = False


class LogprobsBody(Struct, frozen=True):
    """Of all tokens of the answer, those of thoughts and calls too."""

    content: list[ChatToken]
    refusal: None = None


class FunctionPiece(Struct, frozen=True, omit_defaults=True):
    arguments: str
    name: str | UnsetType = UNSET


class ToolCallPiece(Struct, frozen=True):
    """The first of a call has id, type and name, and no arguments yet."""

    index: int
    function: FunctionPiece
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class DeltaBody(Struct, frozen=True, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallPiece] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    index: int
    delta: DeltaBody
    logprobs: LogprobsBody | None = None
    finish_reason: str | None = None


class Chunk(Struct, frozen=True):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    object: str = "chat.completion.chunk"
    usage: UsageBody | UnsetType | None = UNSET


class ChatStream:
    """Events as chunks: a role chunk for each choice, thoughts, content and calls, a finish_reason chunk for each
    choice, and the usage chunk where asked for."""

    def __init__(self, head: Head, wanted: Wanted, served: Served) -> None:
        self._head = head
        self._wanted = wanted
        self._no_usage: UnsetType | None = None if wanted.usage else UNSET
        self._usage: Usage | None = None
        self._model = served.name
        self._fingerprint = fingerprint(served)
        self._around_text: dict[int, tuple[bytes, bytes]] = {}

    def _text_frame(self, index: int, text: str) -> bytes:
        """The frame of a chunk with text alone, as nearly all are: what is around the text is written once."""
        if (around := self._around_text.get(index)) is None:
            before, after = OPENAI.frame(self._chunk(index, DeltaBody(content=_TEXT))).split(_encoder.encode(_TEXT))
            around = self._around_text[index] = before, after
        return around[0] + _encoder.encode(text) + around[1]

    def _chunk(self, index: int, delta: DeltaBody, logprobs: LogprobsBody | None = None,
               finish_reason: str | None = None) -> Chunk:
        return Chunk(*self._head, self._model, self._fingerprint,
                     [ChunkChoice(index, delta, logprobs, finish_reason)], usage=self._no_usage)

    def chunks(self, prompt: int, event: Event) -> Iterable[Struct | bytes]:
        match event:
            case Delta(index=index, text=text) if text and not (
                    self._wanted.logprobs or event.reasoning or event.calls):
                yield self._text_frame(index, text)
            case Delta(index=index):
                logprobs = LogprobsBody(chat_tokens(event.logprobs)) if self._wanted.logprobs else None
                for delta in _deltas(event):
                    yield self._chunk(index, delta, logprobs)
                    logprobs = LogprobsBody([]) if self._wanted.logprobs else None
            case Started():
                # An answer of calls alone has no content, which is not known yet.
                content = None if self._wanted.may_call else ""
                for index in range(self._wanted.n):
                    yield self._chunk(index, DeltaBody(role="assistant", content=content))
            case ChoiceEnd(index=index, reason=reason):
                yield self._chunk(index, DeltaBody(), finish_reason=reason)
            case Finished(usage=usage):
                self._usage = usage

    def closing(self) -> Iterator[Struct]:
        if self._no_usage is None and self._usage is not None:
            yield Chunk(*self._head, self._model, self._fingerprint, [], usage=usage_body(self._usage))

    def failed(self, error: EdgedError) -> Iterator[Struct]:
        yield OPENAI.error(error)


def _deltas(event: Delta) -> Iterator[DeltaBody]:
    """Text first, then the pieces of calls one by one. Tokens that show nothing have a chunk for their
    log-probabilities."""
    if event.text or event.reasoning or (event.logprobs and not event.calls):
        yield DeltaBody(
            content=event.text if event.text or not event.reasoning else UNSET,
            reasoning_content=event.reasoning or UNSET,
        )
    for piece in event.calls:
        if piece.id:
            function = FunctionPiece("", piece.name)
            yield DeltaBody(tool_calls=[ToolCallPiece(piece.call, function, piece.id, "function")])
        if piece.arguments:
            yield DeltaBody(tool_calls=[ToolCallPiece(piece.call, FunctionPiece(piece.arguments))])


class Function(Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    id: str
    function: Function
    type: str = "function"


class Message(Struct, frozen=True):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(Struct, frozen=True):
    index: int
    message: Message
    logprobs: LogprobsBody | None
    finish_reason: str | None


class Completion(Struct, frozen=True):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: UsageBody
    object: str = "chat.completion"


class _Said:
    """One choice, as far as it has come."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.tokens: list[TokenLogprob] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []

    def add(self, event: Delta) -> None:
        self._text.append(event.text)
        self._reasoning.append(event.reasoning)
        self.tokens.extend(event.logprobs)
        for piece in event.calls:
            self._add_call(piece)

    def _add_call(self, piece: CallPiece) -> None:
        if piece.id:
            self._calls.append((piece.id, piece.name, []))
        self._calls[piece.call][2].append(piece.arguments)

    def message(self) -> Message:
        content, reasoning = "".join(self._text), "".join(self._reasoning)
        calls = [ToolCall(identity, Function(name, "".join(pieces))) for identity, name, pieces in self._calls]
        return Message(
            content if content or not calls else None, reasoning_content=reasoning or UNSET, tool_calls=calls or UNSET)


class ChatAnswer:
    """The same events, folded into one body."""

    def __init__(self, head: Head, wanted: Wanted, served: Served) -> None:
        self._head = head
        self._logprobs = wanted.logprobs
        self._choices = [_Said() for _ in range(wanted.n)]
        self._usage = Usage(0, 0)
        self._model = served.name
        self._fingerprint = fingerprint(served)

    def add(self, prompt: int, event: Event) -> None:
        match event:
            case Delta(index=index):
                self._choices[index].add(event)
            case ChoiceEnd(index=index, reason=reason):
                self._choices[index].reason = reason
            case Finished(usage=usage):
                self._usage = usage

    def answer(self) -> Completion:
        choices = [
            Choice(index, said.message(), LogprobsBody(chat_tokens(said.tokens)) if self._logprobs else None,
                   said.reason)
            for index, said in enumerate(self._choices)
        ]
        return Completion(*self._head, self._model, self._fingerprint, choices, usage_body(self._usage))
