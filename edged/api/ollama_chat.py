"""POST /api/chat: Ollama's body in, one GenerateRequest out; a line for each piece of the answer."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from edged.api.answering import Call
from edged.api.exchange import Exchange
from edged.api.fields import Table, Unknown, accept, served
from edged.api.logprobs import ChatToken
from edged.api.ollama_answer import CallBody, Ending, Piece, timestamp
from edged.api.ollama_messages import messages, tools
from edged.api.ollama_request import Presence, call, common, presence
from edged.types import ChatPrompt


def _any(value: Any, path: str) -> Any:
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


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call | Presence:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    table: Table = common(unknown) | {"messages": served(_any), "tools": served(tools)}
    said, ignored = accept(table, body, unknown=unknown)
    turns = messages(said.get("messages", []), "messages", unknown, ignored)
    if not turns:
        return presence(said, ignored)
    return call(said, ignored, exchange, ChatPrompt(turns), partial(line, said["model"]), tools=said.get("tools"))
