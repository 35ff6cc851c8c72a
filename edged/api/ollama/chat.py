"""POST /api/chat: Ollama's body in, one GenerateRequest out; a line for each piece of the answer."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from edged.api.answering import Call
from edged.api.exchange import Exchange
from edged.api.fields import Table, Unknown, accept, served, takes
from edged.api.logprobs import ChatToken
from edged.api.ollama.answer import CallBody, Ending, Piece, timestamp
from edged.api.ollama.messages import messages, messages_schema
from edged.api.ollama.request import Presence, call, common, presence
from edged.api.tools import tool_use, tools
from edged.errors import InvalidRequest
from edged.types import ChatPrompt, Reasoning


@takes(messages_schema)
def _unread(value: Any, path: str) -> Any:
    """What is unknown in them is known to `parse`, which reads them."""
    return value


class MessageBody(Struct, frozen=True):
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[CallBody] | UnsetType = UNSET
    role: str = "assistant"


class ChatLine(Struct, frozen=True, kw_only=True):
    """The answer, and each line of a stream; what follows `done` is of the last one."""

    model: str
    created_at: str
    message: MessageBody
    logprobs: list[ChatToken] | UnsetType = UNSET
    done: bool
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


def line(model: str, piece: Piece, ending: Ending | None) -> ChatLine:
    """model: as the client called it, which is what Ollama answers; the header `edged-model` tells which it was."""
    message = MessageBody(piece.text, piece.thinking or UNSET, piece.calls or UNSET)
    if ending is None:
        return ChatLine(model=model, created_at=timestamp(), message=message, logprobs=piece.logprobs or UNSET,
                        done=False)
    return ChatLine(
        model=model, created_at=timestamp(), message=message, logprobs=piece.logprobs or UNSET, done=True,
        done_reason=ending.reason, total_duration=ending.total_duration, load_duration=ending.load_duration,
        prompt_eval_count=ending.prompt_eval_count, prompt_eval_duration=ending.prompt_eval_duration,
        eval_count=ending.eval_count, eval_duration=ending.eval_duration,
    )


def present(model: str, reason: str) -> ChatLine:
    """Loaded or unloaded."""
    return ChatLine(model=model, created_at=timestamp(), message=MessageBody(), done=True, done_reason=reason)


def fields(unknown: Unknown = "refuse") -> Table:
    return common(unknown) | {"messages": served(_unread), "tools": served(tools)}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call | Presence:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(fields(unknown), body, unknown=unknown)
    turns = messages(said.get("messages", []), "messages", unknown, ignored)
    if not turns:
        return presence(said, ignored)
    prompt = ChatPrompt(turns, continued=_continued(turns[-1], said))
    return call(said, ignored, exchange, prompt, partial(line, said["model"]), tools=tool_use(said))


def _continued(last: dict[str, Any], said: dict[str, Any]) -> bool:
    """A last message of the assistant is the beginning of the answer, as Ollama's templates have it."""
    if last["role"] != "assistant" or last.get("tool_calls"):
        return False
    for name in ("format", "think"):
        if said.get(name) is not None and said[name] != Reasoning(effort="none"):
            raise InvalidRequest(
                f"`messages` ends with the assistant's, so the answer goes on in the middle of a text: leave `{name}` "
                "out, or end with a message of the user.", param="messages")
    return True
