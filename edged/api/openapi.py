"""GET /openapi.json: the contract as an OpenAPI 3.1 document, made at its first request from what serves it: the tables
of fields, the structs of answers, and the routes themselves. tests/fuzzing.py holds the daemon to it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, get_origin

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from msgspec import Struct

from edged.api import (
    admin,
    captured,
    chat,
    chat_body,
    completion_body,
    completions,
    embeddings,
    jobs,
    rerank,
    storage,
    tokens,
    versions,
    wire,
)
from edged.api.anthropic import render as anthropic_render
from edged.api.anthropic import routes as anthropic
from edged.api.anthropic import wire as anthropic_wire
from edged.api.exchange import Services
from edged.api.fields import Schema, Table, object_schema, schema_of
from edged.api.ollama import chat as ollama_chat
from edged.api.ollama import embed as ollama_embed
from edged.api.ollama import generate as ollama_generate
from edged.api.ollama import models as ollama_models
from edged.api.ollama import pull as ollama_pull
from edged.api.ollama import routes as ollama
from edged.api.ollama import wire as ollama_wire
from edged.api.responses import events as responses_events
from edged.api.responses import request as responses_request
from edged.api.responses import routes as responses
from edged.api.responses import wire as responses_wire
from edged.daemon.jobs import JobEvent
from edged.store.captured import Answer
from edged.version import VERSION


class Operation(NamedTuple):
    """bodies: tables of which a request fits one. answer: where the route's own annotation does not say it. stream:
    content type and chunks of a streamed answer. query: parameters behind the `?`. fails: statuses beside those that
    every operation of its form has. served: False where every request is refused."""

    bodies: tuple[Table, ...] = ()
    answer: Any = None
    stream: tuple[str, Any] | None = None
    query: Table = {}  # noqa: RUF012
    fails: frozenset[int] = frozenset()
    served: bool = True


_SSE, _LINES = "text/event-stream", "application/x-ndjson"
_STATUSES = {
    400: "A field is wrong, missing or unknown here; the error names it and says what to do.",
    401: "No key, or a wrong one.", 403: "A foreign Host or Origin, or a key that is not good enough.",
    404: "There is no such model, version, adapter, response or job.", 413: "The body is too large.",
    415: "The body is no JSON by its Content-Type.", 422: "The state of what it is about does not allow it.",
    429: "The queue is full; come again after Retry-After.", 431: "The headers are too large.",
    500: "A file is damaged, a model cannot be loaded, or a mistake of edged's.",
    502: "The worker died, or the hub or index does not answer.",
    503: "A required device is missing, the model keeps crashing, or edged is stopping or not ready.",
    504: "timeout_s was reached.", 507: "Memory or disk do not suffice.",
}
_EVERY = frozenset({401, 403, 431, 500})
_OF_A_BODY = frozenset({400, 413, 415})
_OF_A_MODEL = frozenset({404})
_OF_A_LOAD = _OF_A_MODEL | {422, 502, 503, 504, 507}
#: Of what a worker answers.
_OF_AN_ANSWER = _OF_A_LOAD - {422} | {429}
_OF_A_STORE = _OF_A_MODEL | {422, 507}
_OF_A_JOB = _OF_A_STORE | {429, 502, 503}

OPERATIONS: dict[str, Operation] = {
    "POST /v1/chat/completions": Operation(
        (chat.FIELDS,), chat_body.Completion, (_SSE, chat_body.Chunk), fails=_OF_AN_ANSWER),
    "POST /v1/completions": Operation(
        (completions.FIELDS,), completion_body.Completion, (_SSE, completion_body.Completion), fails=_OF_AN_ANSWER),
    "POST /v1/embeddings": Operation((embeddings.FIELDS,), embeddings.EmbeddingList, fails=_OF_AN_ANSWER),
    **{f"POST {path}": Operation((rerank.FIELDS,), rerank.Ranking, fails=_OF_AN_ANSWER) for path in rerank.PATHS},
    "GET /v1/models": Operation(fails=frozenset({400})),
    "POST /v1/responses": Operation(
        (responses_request.FIELDS,), responses_events.ResponseBody, (_SSE, dict[str, Any]),
        fails=_OF_AN_ANSWER | _OF_A_STORE),
    "GET /v1/responses/{identity}": Operation(
        answer=responses_events.ResponseBody, stream=(_SSE, dict[str, Any]), query=responses.GET_QUERY,
        fails=frozenset({422})),
    "POST /v1/responses/{identity}/cancel": Operation(fails=frozenset({422})),
    "GET /v1/responses/{identity}/input_items": Operation(query=responses.LIST_QUERY),
    "POST /v1/messages": Operation(
        (anthropic.FIELDS,), anthropic_render.Message, (_SSE, dict[str, Any]), fails=_OF_AN_ANSWER),
    "POST /v1/messages/count_tokens": Operation((anthropic.COUNTED,), anthropic.TokensCount, fails=_OF_AN_ANSWER),
    "POST /api/chat": Operation(
        (ollama_chat.fields(),), ollama_chat.ChatLine, (_LINES, ollama_chat.ChatLine),
        fails=_OF_AN_ANSWER | _OF_A_LOAD),
    "POST /api/generate": Operation(
        (ollama_generate.fields(),), ollama_generate.GenerateLine, (_LINES, ollama_generate.GenerateLine),
        fails=_OF_AN_ANSWER | _OF_A_LOAD),
    "POST /api/embed": Operation(
        (ollama_embed.fields(),), ollama_embed.EmbedBody, fails=_OF_AN_ANSWER | _OF_A_LOAD),
    "POST /api/embeddings": Operation(
        (ollama_embed.old_fields(),), ollama_embed.EmbeddingBody, fails=_OF_AN_ANSWER | _OF_A_LOAD),
    "POST /api/show": Operation((ollama_models.SHOW,), fails=_OF_A_MODEL),
    "POST /api/pull": Operation(
        (ollama_pull.PULL,), ollama_pull.Progress, (_LINES, ollama_pull.Progress), fails=_OF_A_JOB),
    "DELETE /api/delete": Operation((ollama.DELETE,), fails=_OF_A_STORE),
    **{f"POST /api/{refused}": Operation(fails=frozenset({400}), served=False)
       for refused in ("create", "copy", "push", "blobs/{digest}")},
    "GET /openapi.json": Operation(answer=dict[str, Any]),
    "GET /health/ready": Operation(fails=frozenset({503})),
    "POST /edged/v1/tokenize": Operation(
        (tokens.TOKENIZE_TEXT, tokens.TOKENIZE_CHAT), tokens.TokensBody, fails=_OF_AN_ANSWER),
    "POST /edged/v1/detokenize": Operation((tokens.DETOKENIZE,), tokens.TextBody, fails=_OF_AN_ANSWER),
    "POST /edged/v1/apply-template": Operation((tokens.TEMPLATE,), tokens.PromptBody, fails=_OF_AN_ANSWER),
    "POST /edged/v1/load": Operation((admin.LOAD,), fails=_OF_A_LOAD),
    "POST /edged/v1/unload": Operation((admin.UNLOAD,), fails=_OF_A_LOAD),
    "POST /edged/v1/reload": Operation(fails=frozenset({422})),
    "DELETE /edged/v1/models/{name}": Operation(fails=_OF_A_STORE),
    "POST /edged/v1/gc": Operation(({},), fails=_OF_A_STORE),
    "POST /edged/v1/purge": Operation(({},), fails=_OF_A_STORE),
    "GET /edged/v1/captured/{name}": Operation(stream=("application/x-ndjson", Answer), fails=frozenset({400})),
    "POST /edged/v1/captured/purge": Operation((captured.PURGE,), fails=frozenset({404, 422})),
    "POST /edged/v1/pull": Operation((jobs.PULL,), JobEvent, (_SSE, JobEvent), fails=_OF_A_JOB),
    "POST /edged/v1/convert": Operation((jobs.CONVERT,), JobEvent, (_SSE, JobEvent), fails=_OF_A_JOB),
    "POST /edged/v1/jobs/{identity}/cancel": Operation(fails=frozenset({422})),
    "GET /edged/v1/jobs/{identity}/events": Operation(answer=JobEvent, stream=(_SSE, JobEvent)),
    "POST /edged/v1/verify": Operation((storage.VERIFY,), fails=_OF_A_STORE),
    "POST /edged/v1/activate": Operation((versions.ACTIVATE,), fails=_OF_A_LOAD),
    "POST /edged/v1/rollback": Operation((versions.MODEL,), fails=_OF_A_LOAD),
    "POST /edged/v1/rollout": Operation((versions.ROLLOUT,), fails=_OF_A_LOAD),
}
_HEADERS = {
    "x-request-id": "Of this request, in the log too; the client's own where it sent one.",
    "edged-ignored": "Fields that were taken and cannot change the answer.",
    "edged-model": "name@version of what answered.", "edged-engine": "The engine that ran it.",
    "edged-device": "The device that really ran it.", "edged-queue-ms": "Time until it began.",
    "edged-capture": "`on`: the operator has the answer kept for training, with what was asked.",
}


def _error_of(path: str) -> type[Struct]:
    if path.startswith("/v1/messages"):
        return anthropic_wire.ErrorBody
    if path.startswith("/v1/responses"):
        return responses_wire.ErrorBody
    return ollama_wire.ErrorLine if path.startswith("/api/") else wire.Body


def document(app: Litestar) -> Schema:
    """Of every route of the application but this document's own."""
    found = [(method, route.path_format, handler) for route in app.routes if isinstance(route, HTTPRoute)
             for handler in route.route_handlers for method in sorted(handler.http_methods)
             if method not in ("HEAD", "OPTIONS")]
    structs = _Structs()
    paths: dict[str, Schema] = {}
    for method, path, handler in sorted(found, key=lambda one: (one[1], one[0])):
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, handler, structs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "edged", "version": VERSION, "description": "OpenAI's, Anthropic's and Ollama's APIs, and "
                 "edged's own under /edged/v1. A field is honoured, or refused by name."},
        "paths": structs.resolved(paths),
        "components": {"schemas": structs.components, "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }},
        "security": [{}, {"bearer": []}, {"key": []}],
    }


#: Of a type that is not known more closely.
_ANYTHING: Schema = {"description": "Any value."}


class _Structs:
    """Structs that the document speaks of, each described once. They are known only when all routes were seen, so that
    paths hold the types themselves until `resolved`."""

    def __init__(self) -> None:
        self._types: list[Any] = []
        self.components: Schema = {}

    def of(self, kind: Any) -> Any:
        self._types.append(kind)
        return _Described(len(self._types) - 1)

    def resolved(self, paths: Schema) -> Schema:
        schemas, self.components = msgspec.json.schema_components(
            self._types, ref_template="#/components/schemas/{name}", schema_hook=lambda kind: _ANYTHING)

        def swap(value: Any) -> Any:
            if isinstance(value, _Described):
                return schemas[value.number]
            if isinstance(value, dict):
                return {name: swap(item) for name, item in value.items()}
            return [swap(item) for item in value] if isinstance(value, list) else value

        resolved: Schema = swap(paths)
        return resolved


class _Described(NamedTuple):
    number: int


def _operation(method: str, path: str, handler: HTTPRouteHandler, structs: _Structs) -> Schema:
    known = OPERATIONS.get(f"{method} {path}", Operation())
    told: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "tags": [_tag(path)],
        "parameters": [*_path_parameters(path), *_query_parameters(known.query)],
        "responses": {
            **({"200": {"description": "The answer.", "content": _content(known, handler, structs), "headers": {
                name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()}}}
               if known.served else {}),
            **{str(status): {"description": _STATUSES[status], "content": {
                "application/json": {"schema": structs.of(_error_of(path))}}} for status in _fails(path, known)},
        },
    }
    if text := inspect.getdoc(handler.fn):
        told["description"] = text
    if known.bodies:
        schemas = [object_schema(table) for table in known.bodies]
        told["requestBody"] = {"required": True, "content": {"application/json": {
            "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}}
    return told


def _fails(path: str, known: Operation) -> list[int]:
    found = _EVERY | known.fails
    if known.bodies:
        found |= _OF_A_BODY
    if known.query:
        found |= {400}
    if "{" in path and known.served:
        found |= {404}
    return sorted(found)


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return {"v1": "OpenAI", "api": "Ollama", "edged": "edged"}.get(
        parts[0], "operator") if not path.startswith("/v1/messages") else "Anthropic"


def _content(known: Operation, handler: HTTPRouteHandler, structs: _Structs) -> Schema:
    answer = known.answer if known.answer is not None else handler.parsed_fn_signature.return_type.annotation
    content: Schema = {}
    if answer is str or _is_response(answer):
        content["text/plain"] = {"schema": {"type": "string"}}
    elif answer is not None and answer is not type(None):
        content["application/json"] = {"schema": structs.of(answer) if _has_schema(answer) else {}}
    if known.stream is not None:
        kind, chunk = known.stream
        content[kind] = {"schema": structs.of(chunk)}
    return content


def _is_response(answer: Any) -> bool:
    kind = get_origin(answer) or answer
    return isinstance(kind, type) and issubclass(kind, Response)


def _has_schema(answer: Any) -> bool:
    kind = get_origin(answer) or answer
    return isinstance(kind, type) and issubclass(kind, Struct | dict | list)


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(table: Table) -> Iterator[Schema]:
    for name, field in table.items():
        assert field.check is not None
        yield {"name": name, "in": "query", "required": field.required, "schema": schema_of(field.check)}


def routes(services: Services) -> list[HTTPRouteHandler]:
    made: list[bytes] = []

    @get("/openapi.json", sync_to_thread=False)
    def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
        """This document."""
        if not made:
            made.append(msgspec.json.encode(document(request.app)))
        return Response(made[0], media_type="application/json")

    return [openapi]
