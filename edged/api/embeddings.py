"""POST /v1/embeddings: all inputs are one EmbedRequest; the worker batches them with those of others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import Raw, Struct

from edged.api.answering import Call, answer
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    MAX_TOKEN,
    Table,
    Unknown,
    accept,
    choice,
    inert,
    integer,
    keep_alive,
    list_schema,
    number,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.limits import read_json
from edged.api.vectors import Written, as_base64, as_numbers, vectors_of
from edged.types import Embedded, EmbedRequest, Event, Finished, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

#: Inputs of one request, as OpenAI has it.
MAX_INPUTS = 2048

_EXPECTED = ("a string, a list of strings, a list of token ids, or a list of such lists; none of them empty, and at "
             f"most {MAX_INPUTS} inputs")


def _tokens(value: list[Any], path: str) -> list[int]:
    if not value:
        raise wrong(path, "at least one token id")
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= MAX_TOKEN:
            raise wrong(f"{path}[{index}]", "a token id")
    return value


def _input(value: Any, path: str) -> str | list[int]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list):
        return _tokens(value, path)
    raise wrong(path, "a string that is not empty, or a list of token ids")


_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": schema_of(integer(0, MAX_TOKEN)), "minItems": 1}


@takes({"anyOf": [_TEXT, _TOKENS, list_schema({"anyOf": [_TEXT, _TOKENS]}, range(1, MAX_INPUTS + 1))]})
def inputs(value: Any, path: str) -> list[str | list[int]]:
    if isinstance(value, str) and value:
        return [value]
    if not isinstance(value, list) or not value:
        raise wrong(path, _EXPECTED)
    if not isinstance(value[0], str | list):
        return [_tokens(value, path)]
    if len(value) > MAX_INPUTS:
        raise wrong(path, f"at most {MAX_INPUTS} inputs")
    return [_input(item, f"{path}[{index}]") for index, item in enumerate(value)]


#: What embeddings and reranking have in common.
COMMON: Table = {
    "model": served(text(512, min_length=1), required=True),
    "timeout_s": served(number(0, 86_400, above=True)),
    "keep_alive": served(keep_alive),
    "user": inert(text()),
}

FIELDS: Table = COMMON | {
    "input": served(inputs, required=True),
    "encoding_format": served(choice("float", "base64")),
    "dimensions": served(integer(1, 2**16)),
}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    request = EmbedRequest(
        id=generation_id(exchange), inputs=said["input"], dimensions=said.get("dimensions"),
        client=exchange.caller.client,
    )
    written = as_base64 if said.get("encoding_format") == "base64" else as_numbers
    return Call(
        model=said["model"], requests=[request], stream=False, streamed=None,
        collected=partial(EmbeddingAnswer, len(request.inputs), written),
        timeout_s=said.get("timeout_s"), keep_alive_s=said.get("keep_alive"), ignored=tuple(ignored),
    )


class Embedding(Struct, frozen=True):
    index: int
    embedding: Raw
    object: str = "embedding"


class TokenUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    data: list[Embedding]
    model: str
    usage: TokenUsage
    object: str = "list"


def token_usage(usage: Usage) -> TokenUsage:
    return TokenUsage(usage.prompt_tokens, usage.prompt_tokens)


class EmbeddingAnswer:
    def __init__(self, count: int, written: Written, served: Served) -> None:
        self._vectors = [Raw()] * count
        self._written = written
        self._model = served.name
        self._usage = Usage(0, 0)

    def add(self, prompt: int, event: Event) -> None:
        match event:
            case Embedded():
                for index, vector in vectors_of(event):
                    self._vectors[index] = self._written(vector)
            case Finished(usage=usage):
                self._usage = usage
            case _:
                pass

    def answer(self) -> EmbeddingList:
        data = [Embedding(index, vector) for index, vector in enumerate(self._vectors)]
        return EmbeddingList(data, self._model, token_usage(self._usage))


def routes(services: Services) -> list[HTTPRouteHandler]:
    async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        body = await read_json(scope, receive, services.limits)
        await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

    @post("/v1/embeddings", status_code=200)
    async def embeddings() -> ASGIApp:
        return endpoint  # type: ignore[return-value]

    return [embeddings]
