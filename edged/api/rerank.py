"""POST /v1/rerank, in the shape that Jina's and Cohere's clients speak: documents by how well they fit a query."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import UNSET, Struct, UnsetType

from edged.api.answering import Call, answer
from edged.api.embeddings import COMMON, MAX_INPUTS, TokenUsage, token_usage
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    Table,
    Unknown,
    accept,
    boolean,
    integer,
    items,
    later,
    list_schema,
    record,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.limits import read_json
from edged.api.vectors import numbers, vectors_of
from edged.types import Embedded, EmbedRequest, Event, Finished, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

#: Cohere's clients, of both versions, Jina's, and those that take the bare path.
PATHS = ["/v1/rerank", "/v2/rerank", "/rerank"]

_words = text(2**31 - 1, min_length=1)
_object = record({"text": served(_words, required=True)})


@takes(lambda: {"anyOf": [schema_of(_words), schema_of(_object)]})
def _document(value: Any, path: str) -> str:
    if isinstance(value, dict):
        said: str = _object(value, path).values["text"]
        return said
    if not isinstance(value, str) or not value:
        raise wrong(path, 'a string that is not empty, or an object {"text": …}')
    return value


_MANY = range(1, MAX_INPUTS + 1)


@takes(lambda: list_schema(schema_of(_document), _MANY))
def _documents(value: Any, path: str) -> list[str]:
    return items(value, path, _document, f"a list of 1 to {MAX_INPUTS} documents", _MANY)


FIELDS: Table = COMMON | {
    "query": served(_words, required=True),
    "documents": served(_documents, required=True),
    "top_n": served(integer(1, 2**31 - 1)),
    "return_documents": served(boolean),
    "max_tokens_per_doc": later(instead="Send documents that fit the model's context: nothing is cut."),
    "max_chunks_per_doc": later(instead="Send documents that fit the model's context: nothing is cut."),
    "rank_fields": later(instead="Send each document as the text that is to be ranked."),
}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    documents: list[str] = said["documents"]
    request = EmbedRequest(
        id=generation_id(exchange), inputs=list(documents), query=said["query"], client=exchange.caller.client)
    return Call(
        model=said["model"], requests=[request], stream=False, streamed=None,
        collected=partial(RerankAnswer, f"rerank-{exchange.request_id}", documents,
                          min(said.get("top_n", len(documents)), len(documents)), said.get("return_documents", False)),
        timeout_s=said.get("timeout_s"), keep_alive_s=said.get("keep_alive"), ignored=tuple(ignored),
    )


class Document(Struct, frozen=True):
    text: str


class Ranked(Struct, frozen=True):
    """index: of the document in the request. relevance_score: 0 … 1, as the model has it."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class Ranking(Struct, frozen=True):
    """Best first; equal ones in the order of the request."""

    id: str
    model: str
    results: list[Ranked]
    usage: TokenUsage
    object: str = "list"


class RerankAnswer:
    def __init__(self, id: str, documents: list[str], top_n: int, with_documents: bool, served: Served) -> None:
        self._id, self._documents, self._top_n, self._with_documents = id, documents, top_n, with_documents
        self._scores = [0.0] * len(documents)
        self._model = served.name
        self._usage = Usage(0, 0)

    def add(self, prompt: int, event: Event) -> None:
        match event:
            case Embedded():
                for index, score in vectors_of(event):
                    self._scores[index] = numbers(score)[0]
            case Finished(usage=usage):
                self._usage = usage
            case _:
                pass

    def answer(self) -> Ranking:
        best = sorted(range(len(self._scores)), key=lambda index: (-self._scores[index], index))[:self._top_n]
        results = [
            Ranked(index, self._scores[index], Document(self._documents[index]) if self._with_documents else UNSET)
            for index in best
        ]
        return Ranking(self._id, self._model, results, token_usage(self._usage))


def routes(services: Services) -> list[HTTPRouteHandler]:
    async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        body = await read_json(scope, receive, services.limits)
        await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

    @post(PATHS, status_code=200)
    async def rerank() -> ASGIApp:
        return endpoint  # type: ignore[return-value]

    return [rerank]
