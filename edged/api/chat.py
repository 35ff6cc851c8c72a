"""POST /v1/chat/completions: OpenAI's body in, one GenerateRequest out, its events rendered in OpenAI's shapes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import UNSET, Struct, UnsetType

from edged.api.answering import Call, answer
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    GENERATION,
    MAX_TOKENS,
    Table,
    Unknown,
    accept,
    boolean,
    inert,
    integer,
    later,
    mapping,
    served,
    text,
    wrong,
)
from edged.api.formats import RESPONSE_FORMAT, constraint
from edged.api.limits import read_json
from edged.api.logprobs import ChatToken, chat_tokens
from edged.api.messages import messages
from edged.api.request import max_tokens, sampling, top_logprobs, usage_wanted
from edged.api.usage import UsageBody, fingerprint, usage_body
from edged.api.wire import OPENAI
from edged.errors import EdgedError
from edged.types import ChatPrompt, ChoiceEnd, Delta, Event, Finished, GenerateRequest, Started, TokenLogprob, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

#: Names that the rendering of a template sets itself.
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
                       "chat_template", "bos_token", "eos_token", "unk_token", "pad_token"})


def template_kwargs(value: Any, path: str) -> dict[str, Any]:
    for name, item in mapping(32)(value, path).items():
        at = f"{path}.{name}"
        if not name.isidentifier() or len(name) > 64 or name in _RESERVED:
            raise wrong(at[:200], "left out: a template does not take that name from a request")
        if not isinstance(item, str | int | float | bool | None) or len(str(item)) > 1000:
            raise wrong(at, "a short string, a number, true, false or null")
    return dict(value)


def _any(value: Any, path: str) -> Any:
    return value


FIELDS: Table = GENERATION | RESPONSE_FORMAT | {
    "messages": served(_any, required=True),
    "max_completion_tokens": served(integer(1, MAX_TOKENS)),
    "logprobs": served(boolean),
    "top_logprobs": served(integer(0, 20)),
    "chat_template_kwargs": served(template_kwargs),
    "store": inert(boolean),
    "metadata": inert(mapping(16)),
    "prompt_cache_retention": inert(text()),
    "tools": later([]),
    "tool_choice": later("none", "auto"),
    "parallel_tool_calls": later(True, False),
    "functions": later([]),
    "function_call": later("none", "auto"),
    "reasoning_effort": later(),
    "modalities": later(["text"]),
    "audio": later(),
    "prediction": later(),
    "verbosity": later("medium"),
    "web_search_options": later(),
}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    prompt = ChatPrompt(
        messages=messages(said["messages"], "messages", unknown, ignored),
        template_kwargs=said.get("chat_template_kwargs", {}),
    )
    request = GenerateRequest(
        id=generation_id(exchange),
        prompt=prompt,
        sampling=sampling(said),
        max_tokens=max_tokens(said),
        stop=said.get("stop", ()),
        n=said.get("n", 1),
        logprobs=top_logprobs(said),
        adapter=said.get("adapter"),
        **constraint(said, ignored),
        client=exchange.caller.client,
    )
    with_usage = usage_wanted(said, ignored)
    head = (f"chatcmpl-{exchange.request_id}", int(time.time()))
    return Call(
        model=said["model"],
        requests=[request],
        stream=said.get("stream", False),
        streamed=partial(ChatStream, head, request.n, request.logprobs is not None, with_usage),
        collected=partial(ChatAnswer, head, request.n, request.logprobs is not None),
        timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"),
        ignored=tuple(ignored),
    )


Head = tuple[str, int]


class LogprobsBody(Struct, frozen=True):
    content: list[ChatToken]
    refusal: None = None


class DeltaBody(Struct, frozen=True, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


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
    """Events as chunks: a role chunk for each choice, content, a finish_reason chunk for each choice, and the usage
    chunk where asked for."""

    def __init__(self, head: Head, n: int, logprobs: bool, with_usage: bool, served: Served) -> None:
        self._head = head
        self._n = n
        self._logprobs = logprobs
        self._no_usage: UnsetType | None = None if with_usage else UNSET
        self._usage: Usage | None = None
        self._model = served.name
        self._fingerprint = fingerprint(served)

    def _chunk(self, index: int, delta: DeltaBody, logprobs: LogprobsBody | None = None,
               finish_reason: str | None = None) -> Chunk:
        return Chunk(*self._head, self._model, self._fingerprint,
                     [ChunkChoice(index, delta, logprobs, finish_reason)], usage=self._no_usage)

    def chunks(self, prompt: int, event: Event) -> Iterable[Struct]:
        match event:
            case Delta(index=index, text=text, logprobs=tokens):
                if text or tokens:
                    logprobs = LogprobsBody(chat_tokens(tokens)) if self._logprobs else None
                    yield self._chunk(index, DeltaBody(content=text), logprobs)
            case Started():
                for index in range(self._n):
                    yield self._chunk(index, DeltaBody(role="assistant", content=""))
            case ChoiceEnd(index=index, reason=reason):
                yield self._chunk(index, DeltaBody(), finish_reason=reason)
            case Finished(usage=usage):
                self._usage = usage

    def closing(self) -> Iterator[Struct]:
        if self._no_usage is None and self._usage is not None:
            yield Chunk(*self._head, self._model, self._fingerprint, [], usage=usage_body(self._usage))

    def failed(self, error: EdgedError) -> Iterator[Struct]:
        yield OPENAI.error(error)


class Message(Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: None = None


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


class ChatAnswer:
    """The same events, folded into one body."""

    def __init__(self, head: Head, n: int, logprobs: bool, served: Served) -> None:
        self._head = head
        self._logprobs = logprobs
        self._texts: list[list[str]] = [[] for _ in range(n)]
        self._tokens: list[list[TokenLogprob]] = [[] for _ in range(n)]
        self._reasons: list[str | None] = [None] * n
        self._usage = Usage(0, 0)
        self._model = served.name
        self._fingerprint = fingerprint(served)

    def add(self, prompt: int, event: Event) -> None:
        match event:
            case Delta(index=index, text=text, logprobs=tokens):
                self._texts[index].append(text)
                self._tokens[index].extend(tokens)
            case ChoiceEnd(index=index, reason=reason):
                self._reasons[index] = reason
            case Finished(usage=usage):
                self._usage = usage

    def answer(self) -> Completion:
        choices = [
            Choice(index, Message("".join(self._texts[index])),
                   LogprobsBody(chat_tokens(self._tokens[index])) if self._logprobs else None, reason)
            for index, reason in enumerate(self._reasons)
        ]
        return Completion(*self._head, self._model, self._fingerprint, choices, usage_body(self._usage))


def routes(services: Services) -> list[HTTPRouteHandler]:
    async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        body = await read_json(scope, receive, services.limits)
        await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

    @post("/v1/chat/completions", status_code=200)
    async def chat_completions() -> ASGIApp:
        return endpoint  # type: ignore[return-value]

    return [chat_completions]
