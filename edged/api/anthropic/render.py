"""Events as Anthropic's message: streamed as blocks that open, grow and close, or those blocks put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edged.api.anthropic.thinking import UNSIGNED, sealed
from edged.api.cut_json import whole_part
from edged.api.wire import Wire
from edged.errors import EdgedError
from edged.types import CallPiece, ChoiceEnd, Delta, Event, Finished, Started, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class ThinkingBlock(Struct, frozen=True, tag="thinking", tag_field="type"):
    thinking: str = ""
    signature: str = ""


class TextBlock(Struct, frozen=True, tag="text", tag_field="type"):
    text: str = ""


class ToolUseBlock(Struct, frozen=True, tag="tool_use", tag_field="type"):
    id: str
    name: str
    input: dict[str, Any] = {}


Block = ThinkingBlock | TextBlock | ToolUseBlock


class ThinkingDelta(Struct, frozen=True, tag="thinking_delta", tag_field="type"):
    thinking: str


class SignatureDelta(Struct, frozen=True, tag="signature_delta", tag_field="type"):
    signature: str


class TextDelta(Struct, frozen=True, tag="text_delta", tag_field="type"):
    text: str


class InputDelta(Struct, frozen=True, tag="input_json_delta", tag_field="type"):
    partial_json: str


class OutputDetails(Struct, frozen=True):
    thinking_tokens: int


class UsageBody(Struct, frozen=True):
    """input_tokens: without those that a kept prefix had already; keeping one costs nothing, so nothing is counted as
    written to a cache."""

    input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails
    cache_creation_input_tokens: int = 0
    service_tier: Literal["standard"] = "standard"


class Unavailable(Struct, frozen=True, tag="unavailable", tag_field="type"):
    pass


class Diagnostics(Struct, frozen=True):
    """Why a prefix was not found again is not known here."""

    cache_miss_reason: Unavailable = Unavailable()


class Message(Struct, frozen=True, tag="message", tag_field="type"):
    id: str
    model: str
    content: list[Block]
    usage: UsageBody
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"
    diagnostics: Diagnostics | UnsetType = UNSET


class MessageStart(Struct, frozen=True, tag="message_start", tag_field="type"):
    message: Message


class BlockStart(Struct, frozen=True, tag="content_block_start", tag_field="type"):
    index: int
    content_block: Block


class BlockDelta(Struct, frozen=True, tag="content_block_delta", tag_field="type"):
    index: int
    delta: ThinkingDelta | SignatureDelta | TextDelta | InputDelta


class BlockStop(Struct, frozen=True, tag="content_block_stop", tag_field="type"):
    index: int


class End(Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, frozen=True, tag="message_delta", tag_field="type"):
    delta: End
    usage: UsageBody


class MessageStop(Struct, frozen=True, tag="message_stop", tag_field="type"):
    pass


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        usage.prompt_tokens - usage.cached_tokens, usage.cached_tokens, usage.completion_tokens,
        OutputDetails(usage.reasoning_tokens))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a request decides of its answer. thinking_shown: False leaves thinking to the signature."""

    id: str
    max_tokens: int
    thinking_shown: bool = True
    diagnostics: bool = False


class MessageStream:
    """One block is open at a time: thinking, then text, then each call."""

    def __init__(self, shape: Shape, wire: Wire, served: Served) -> None:
        self._shape = shape
        self._wire = wire
        self._model = served.name
        self._index = -1
        self._open: type[Block] | None = None
        self._call: int | None = None
        self._hidden: list[str] = []
        self._end: ChoiceEnd | None = None

    def chunks(self, prompt: int, event: Event) -> Iterable[Struct]:
        match event:
            case Delta():
                yield from self._delta(event)
            case Started(prompt_tokens=prompt_tokens, cached_tokens=cached_tokens):
                diagnostics = Diagnostics() if self._shape.diagnostics else UNSET
                yield MessageStart(Message(
                    self._shape.id, self._model, [], usage_body(Usage(prompt_tokens, 0, cached_tokens)),
                    diagnostics=diagnostics))
            case ChoiceEnd():
                self._end = event
                yield from self._close()
            case Finished(usage=usage):
                assert self._end is not None
                reason = self._reason(self._end, usage)
                yield MessageDelta(End(reason, self._end.stop if reason == "stop_sequence" else None),
                                   usage_body(usage))
            case _:
                pass

    def closing(self) -> Iterator[Struct]:
        yield MessageStop()

    def failed(self, error: EdgedError) -> Iterator[Struct]:
        yield self._wire.error(error)

    def _delta(self, event: Delta) -> Iterator[Struct]:
        if event.reasoning:
            yield from self._begin(ThinkingBlock())
            if self._shape.thinking_shown:
                yield BlockDelta(self._index, ThinkingDelta(event.reasoning))
            else:
                self._hidden.append(event.reasoning)
        if event.text:
            yield from self._begin(TextBlock())
            yield BlockDelta(self._index, TextDelta(event.text))
        for piece in event.calls:
            yield from self._called(piece)

    def _called(self, piece: CallPiece) -> Iterator[Struct]:
        if piece.call != self._call:
            yield from self._close()
            self._call = piece.call
            yield from self._begin(ToolUseBlock(piece.id, piece.name))
        if piece.arguments:
            yield BlockDelta(self._index, InputDelta(piece.arguments))

    def _begin(self, block: Block) -> Iterator[Struct]:
        """Does nothing where such a block is open."""
        if self._open is type(block):
            return
        yield from self._close()
        self._index += 1
        self._open = type(block)
        yield BlockStart(self._index, block)

    def _close(self) -> Iterator[Struct]:
        if self._open is ThinkingBlock:
            signature = UNSIGNED if self._shape.thinking_shown else sealed("".join(self._hidden))
            self._hidden.clear()
            yield BlockDelta(self._index, SignatureDelta(signature))
        if self._open is not None:
            yield BlockStop(self._index)
        self._open = None

    def _reason(self, end: ChoiceEnd, usage: Usage) -> StopReason:
        match end.reason:
            case "length":
                whole = usage.completion_tokens >= self._shape.max_tokens
                return "max_tokens" if whole else "model_context_window_exceeded"
            case "tool_calls":
                return "tool_use"
            case _:
                return "end_turn" if end.stop is None else "stop_sequence"


class MessageAnswer:
    """The chunks of the stream, put together: the one cannot differ from the other."""

    def __init__(self, shape: Shape, wire: Wire, served: Served) -> None:
        self._stream = MessageStream(shape, wire, served)
        self._message: Message | None = None
        self._blocks: list[tuple[Block, list[Struct]]] = []

    def add(self, prompt: int, event: Event) -> None:
        for chunk in self._stream.chunks(prompt, event):
            match chunk:
                case MessageStart(message=message):
                    self._message = message
                case BlockStart(content_block=block):
                    self._blocks.append((block, []))
                case BlockDelta(index=index, delta=delta):
                    self._blocks[index][1].append(delta)
                case MessageDelta(delta=end, usage=usage):
                    assert self._message is not None
                    self._message = msgspec.structs.replace(
                        self._message, content=[_whole(*block) for block in self._blocks], usage=usage,
                        stop_reason=end.stop_reason, stop_sequence=end.stop_sequence)

    def answer(self) -> Message:
        assert self._message is not None
        return self._message


def _whole(block: Block, deltas: list[Struct]) -> Block:
    match block:
        case ThinkingBlock():
            return ThinkingBlock(
                "".join(delta.thinking for delta in deltas if isinstance(delta, ThinkingDelta)),
                "".join(delta.signature for delta in deltas if isinstance(delta, SignatureDelta)))
        case TextBlock():
            return TextBlock("".join(delta.text for delta in deltas if isinstance(delta, TextDelta)))
        case ToolUseBlock(id=id_, name=name):
            written = "".join(delta.partial_json for delta in deltas if isinstance(delta, InputDelta))
            return ToolUseBlock(id_, name, whole_part(written))
