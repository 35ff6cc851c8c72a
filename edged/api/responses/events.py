"""What /v1/responses answers: the response object, and the typed events of its stream.

Source of every shape: the official `openai` package (`openai.types.responses`), against whose types the tests hold each
event.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from edged.api.logprobs import ChatToken
from edged.api.responses.items import Item, OutputText, ReasoningText, Refusal, SummaryText
from edged.api.responses.wire import in_own_names
from edged.errors import EdgedError
from edged.types import Usage


class InputDetails(Struct, frozen=True):
    cached_tokens: int
    #: OpenAI bills them; here every prompt is kept while there is room, at no cost.
    cache_write_tokens: int = 0


class OutputDetails(Struct, frozen=True):
    reasoning_tokens: int


class UsageBody(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        usage.prompt_tokens, InputDetails(usage.cached_tokens), usage.completion_tokens,
        OutputDetails(usage.reasoning_tokens), usage.prompt_tokens + usage.completion_tokens,
    )


class Failure(Struct, frozen=True):
    """code: one of the few that OpenAI has; type: edged's own, as in the table of errors."""

    code: str
    message: str
    type: str | None = None
    param: str | None = None


_CODES = {429: "rate_limit_exceeded"}


def failure(error: EdgedError) -> Failure:
    code = _CODES.get(error.status, "invalid_prompt" if error.status < 500 else "server_error")
    message, param = in_own_names(error)
    return Failure(code, message, error.code, param)


class Incomplete(Struct, frozen=True):
    reason: str = "max_output_tokens"


class ReasoningBody(Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None


class TextBody(Struct, frozen=True):
    format: dict[str, Any] = field(default_factory=lambda: {"type": "text"})


class ResponseBody(Struct, frozen=True, kw_only=True):
    """tools, tool_choice, text: as the client said them, what it left out filled in. store: whether it is kept."""

    id: str
    object: str = "response"
    created_at: int
    status: str = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: list[Item] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningBody = ReasoningBody()
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float | None = None
    text: TextBody = field(default_factory=TextBody)
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = []
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: str = "disabled"
    usage: UsageBody | None = None
    user: str | None = None
    metadata: dict[str, str] = {}


class _Event(Struct, frozen=True, tag_field="type"):
    sequence_number: int


class _Whole(_Event, frozen=True, tag=None):
    response: ResponseBody


class Created(_Whole, frozen=True, tag="response.created"):
    pass


class Queued(_Whole, frozen=True, tag="response.queued"):
    pass


class InProgress(_Whole, frozen=True, tag="response.in_progress"):
    pass


class Completed(_Whole, frozen=True, tag="response.completed"):
    pass


class IncompleteEvent(_Whole, frozen=True, tag="response.incomplete"):
    pass


class FailedEvent(_Whole, frozen=True, tag="response.failed"):
    pass


class _OfItem(_Event, frozen=True):
    output_index: int


class ItemAdded(_OfItem, frozen=True, tag="response.output_item.added"):
    item: Item


class ItemDone(_OfItem, frozen=True, tag="response.output_item.done"):
    item: Item


class _OfPart(_OfItem, frozen=True):
    item_id: str
    content_index: int


class PartAdded(_OfPart, frozen=True, tag="response.content_part.added"):
    part: OutputText | Refusal | ReasoningText


class PartDone(_OfPart, frozen=True, tag="response.content_part.done"):
    part: OutputText | Refusal | ReasoningText


class TextDelta(_OfPart, frozen=True, tag="response.output_text.delta"):
    delta: str
    logprobs: list[ChatToken] = []


class TextDone(_OfPart, frozen=True, tag="response.output_text.done"):
    text: str
    logprobs: list[ChatToken] = []


class ReasoningDelta(_OfPart, frozen=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningDone(_OfPart, frozen=True, tag="response.reasoning_text.done"):
    text: str


class _OfSummary(_OfItem, frozen=True):
    item_id: str
    summary_index: int


class SummaryPartAdded(_OfSummary, frozen=True, tag="response.reasoning_summary_part.added"):
    part: SummaryText


class SummaryPartDone(_OfSummary, frozen=True, tag="response.reasoning_summary_part.done"):
    part: SummaryText


class SummaryDelta(_OfSummary, frozen=True, tag="response.reasoning_summary_text.delta"):
    delta: str


class SummaryDone(_OfSummary, frozen=True, tag="response.reasoning_summary_text.done"):
    text: str


class ArgumentsDelta(_OfItem, frozen=True, tag="response.function_call_arguments.delta"):
    item_id: str
    delta: str


class ArgumentsDone(_OfItem, frozen=True, tag="response.function_call_arguments.done"):
    item_id: str
    name: str
    arguments: str
