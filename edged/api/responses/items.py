"""The items of /v1/responses: what goes in as they are sent, stored and listed, what comes out, and the chat messages
that a template is given for them.

An answer's items (thoughts, text, calls) become one assistant message again, so that the next turn's prompt begins as
this one ended and its computed beginning is reused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from edged.api.logprobs import ChatToken
from edged.api.messages import arguments


class InputText(Struct, frozen=True, tag="input_text", tag_field="type"):
    text: str


class OutputText(Struct, frozen=True, tag="output_text", tag_field="type"):
    text: str
    annotations: list[None] = []
    logprobs: list[ChatToken] = []


class Refusal(Struct, frozen=True, tag="refusal", tag_field="type"):
    refusal: str


Part = InputText | OutputText | Refusal


class Message(Struct, frozen=True, tag="message", tag_field="type"):
    id: str
    role: str
    content: list[Part]
    status: str = "completed"


class FunctionCall(Struct, frozen=True, tag="function_call", tag_field="type"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: str = "completed"


class FunctionOutput(Struct, frozen=True, tag="function_call_output", tag_field="type"):
    id: str
    call_id: str
    output: str | list[InputText]
    status: str = "completed"


class SummaryText(Struct, frozen=True, tag="summary_text", tag_field="type"):
    text: str


class ReasoningText(Struct, frozen=True, tag="reasoning_text", tag_field="type"):
    text: str


class Thoughts(Struct, frozen=True, tag="reasoning", tag_field="type"):
    """content: as the model wrote them; or, where a summary was asked for, all of them there."""

    id: str
    summary: list[SummaryText]
    content: list[ReasoningText] | UnsetType = UNSET
    status: str = "completed"

    @property
    def text(self) -> str:
        parts: Iterable[ReasoningText | SummaryText] = self.content or self.summary
        return "\n".join(part.text for part in parts)


Item = Message | FunctionCall | FunctionOutput | Thoughts


class Reference(Struct, frozen=True):
    """An item of a stored response, by its id. path: of the field, for an error."""

    id: str
    path: str


def item_id(prefix: str, response_id: str, number: int, *, of_input: bool = False) -> str:
    """Names its response, so that a reference to the item finds it."""
    return f"{prefix}_{response_id.removeprefix('resp_')}_{'i' if of_input else ''}{number}"


def response_of(item: str) -> str | None:
    """The id of the response that made this item, or was sent it. None for an id of another server's."""
    parts = item.split("_")
    return f"resp_{parts[1]}" if len(parts) == 3 else None


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """In the shape that `edged.types.ChatPrompt` describes."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    turn: dict[str, Any] | None = None
    for item in items:
        if isinstance(item, FunctionOutput) or (isinstance(item, Message) and item.role != "assistant"):
            turn = None
            messages.append(_other(item))
            continue
        if turn is None or not _goes_on(turn, item):
            turn = {"role": "assistant", "content": ""}
            messages.append(turn)
        match item:
            case Thoughts():
                turn["reasoning_content"] = item.text
            case Message():
                turn["content"] = _text(item.content)
            case FunctionCall():
                turn.setdefault("tool_calls", []).append({
                    "id": item.call_id, "type": "function",
                    "function": {"name": item.name, "arguments": arguments(item.arguments)},
                })
    return messages


def _goes_on(turn: dict[str, Any], item: Item) -> bool:
    """Thoughts, then text, then calls: what comes out of this order belongs to a later answer."""
    if isinstance(item, FunctionCall):
        return True
    if isinstance(item, Message):
        return not turn["content"] and "tool_calls" not in turn
    return turn == {"role": "assistant", "content": ""}


def _other(item: Message | FunctionOutput) -> dict[str, Any]:
    if isinstance(item, Message):
        return {"role": "system" if item.role == "developer" else item.role, "content": _text(item.content)}
    output = item.output if isinstance(item.output, str) else _text(item.output)
    return {"role": "tool", "tool_call_id": item.call_id, "content": output}


def _text(parts: Iterable[Part]) -> str:
    return "\n".join(part.refusal if isinstance(part, Refusal) else part.text for part in parts)
