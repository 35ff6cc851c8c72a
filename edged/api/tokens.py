"""POST /edged/v1/tokenize, /detokenize, /apply-template: what a model reads, without an answer.

Whoever may chat may ask. The worker renders and tokenizes beside its step loop, so nobody's tokens wait.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import UNSET, Struct, UnsetType

from edged.api import chat
from edged.api.answering import Call, answer
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    MAX_TOKEN,
    Table,
    Unknown,
    accept,
    boolean,
    inert,
    integer,
    items,
    list_schema,
    schema_of,
    served,
    takes,
    text,
)
from edged.api.limits import read_json
from edged.api.sse import Streamed
from edged.errors import InvalidRequest, MissingParameter
from edged.types import Event, GenerateRequest, Prompt, Rendered, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from edged.daemon.status import Served

MAX_TOKENS_READ = 1 << 20

_COMMON: Table = {name: chat.FIELDS[name] for name in ("model", "timeout_s", "keep_alive")}
_SHAPES_THE_PROMPT = {
    "messages", "tools", "tool_choice", "functions", "function_call", "reasoning_effort", "reasoning_budget",
    "chat_template_kwargs",
}
#: A chat request as it is: what only steers the answer is checked, and told in `edged-ignored`.
_CHAT: Table = {
    name: field if name in _COMMON or name in _SHAPES_THE_PROMPT or field.check is None else inert(field.check)
    for name, field in chat.FIELDS.items() if name not in ("stream", "stream_options")
}
_token = integer(0, MAX_TOKEN)
_READ = range(1, MAX_TOKENS_READ + 1)
_OPTIONS: Table = {"pieces": served(boolean)}

TEMPLATE: Table = _CHAT
TOKENIZE_TEXT: Table = _COMMON | _OPTIONS | {
    "text": served(text(), required=True),
    "add_special_tokens": served(boolean),
}
TOKENIZE_CHAT: Table = _CHAT | _OPTIONS


@takes(list_schema(schema_of(_token), _READ))
def _tokens(value: Any, path: str) -> list[int]:
    return items(value, path, _token, "a list of token ids", _READ)


DETOKENIZE: Table = _COMMON | {"tokens": served(_tokens, required=True)}


class PieceBody(Struct, frozen=True):
    """bytes are exact; text holds U+FFFD where they are a part of a character."""

    token: int
    text: str
    bytes: list[int]


class TokensBody(Struct, frozen=True):
    model: str
    tokens: list[int]
    count: int
    pieces: list[PieceBody] | UnsetType = UNSET


class TextBody(Struct, frozen=True):
    """exact: `text` is all that the tokens say; else it holds U+FFFD where their bytes are no UTF-8. base64: of the
    bytes, always exact."""

    model: str
    text: str
    exact: bool
    base64: str


class PromptBody(Struct, frozen=True):
    model: str
    prompt: str


#: (the model's name, its prompt) → the body of the answer.
Told = Callable[[str, Rendered], Struct]


def tokens_body(model: str, rendered: Rendered, *, pieces: bool) -> TokensBody:
    shown = [
        PieceBody(token, piece.decode(errors="replace"), list(piece))
        for token, piece in zip(rendered.tokens, rendered.pieces, strict=True)
    ] if pieces else UNSET
    return TokensBody(model, rendered.tokens, len(rendered.tokens), shown)


def text_body(model: str, rendered: Rendered) -> TextBody:
    data = b"".join(rendered.pieces)
    return TextBody(model, rendered.text, rendered.text.encode() == data, base64.b64encode(data).decode())


def prompt_body(model: str, rendered: Rendered) -> PromptBody:
    return PromptBody(model, rendered.text)


class PromptAnswer:
    """Collects the one prompt of a call."""

    def __init__(self, told: Told, served: Served) -> None:
        self._told = told
        self._model = served.name
        self._rendered: Rendered | None = None

    def add(self, prompt: int, event: Event) -> None:
        if isinstance(event, Rendered):
            self._rendered = event

    def answer(self) -> Struct:
        assert self._rendered is not None
        return self._told(self._model, self._rendered)


def prompt_only(call: Call, told: Told) -> Call:
    """The same call, answered by what the model would read. For one prompt."""
    (request,) = call.requests
    return replace(
        call, requests=[msgspec.structs.replace(request, n=1, prompt_only=True)], stream=False, streamed=_no_stream,
        collected=partial(PromptAnswer, told),
    )


def _no_stream(served: Served) -> Streamed:
    raise AssertionError("a prompt is not streamed")


def _of_chat(body: dict[str, Any], table: Table, exchange: Exchange, unknown: Unknown, told: Told) -> Call:
    ignored = accept(table, body, unknown=unknown).ignored
    chatted = {name: value for name, value in body.items() if name in chat.FIELDS}
    call = chat.parse(chatted, exchange, unknown)
    return prompt_only(replace(call, ignored=tuple(dict.fromkeys([*ignored, *call.ignored]))), told)


def _of_prompt(said: dict[str, Any], ignored: list[str], prompt: Prompt, exchange: Exchange, told: Told) -> Call:
    request = GenerateRequest(
        id=generation_id(exchange), prompt=prompt, client=exchange.caller.client, prompt_only=True)
    return Call(
        model=said["model"], requests=[request], stream=False, streamed=_no_stream,
        collected=partial(PromptAnswer, told), timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"), ignored=tuple(ignored),
    )


def parse_template(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`; as the two below."""
    return _of_chat(body, TEMPLATE, exchange, unknown, prompt_body)


def parse_tokenize(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    def told(model: str, rendered: Rendered) -> TokensBody:
        return tokens_body(model, rendered, pieces=bool(body.get("pieces")))

    if body.get("messages") is not None:
        if body.get("text") is not None:
            raise InvalidRequest("Send `text` or `messages`, not both.", param="text")
        return _of_chat(body, TOKENIZE_CHAT, exchange, unknown, told)
    if body.get("text") is None:
        raise MissingParameter("`text` is missing; for a chat send its `messages`.", param="text")
    said, ignored = accept(TOKENIZE_TEXT, body, unknown=unknown)
    prompt = TextPrompt(said["text"], bos=said.get("add_special_tokens", True))
    return _of_prompt(said, ignored, prompt, exchange, told)


def parse_detokenize(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    said, ignored = accept(DETOKENIZE, body, unknown=unknown)
    return _of_prompt(said, ignored, TokenPrompt(said["tokens"]), exchange, text_body)


def routes(services: Services) -> list[HTTPRouteHandler]:
    def route(path: str, parse: Callable[[dict[str, Any], Exchange, Unknown], Call]) -> HTTPRouteHandler:
        async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
            exchange = exchange_of(scope)
            body = await read_json(scope, receive, services.limits)
            await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

        @post(path, status_code=200)
        async def handler() -> ASGIApp:
            return endpoint  # type: ignore[return-value]

        return handler

    return [
        route("/edged/v1/tokenize", parse_tokenize),
        route("/edged/v1/detokenize", parse_detokenize),
        route("/edged/v1/apply-template", parse_template),
    ]
