"""Embeddings and reranking, tokens and templates, lists of models, errors and the operator's pages."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from bench.conformance.outcome import Skipped, check, demand, expect
from bench.conformance.server import COUNTING, Server

EMBEDDINGS = "/v1/embeddings"
TOKENS = "/edged/v1"
ERRORS = "errors"
CHAT = "/v1/chat/completions"


def embed(server: Server, said: Any, *names: str, **fields: Any) -> list[Any]:
    if server.embedder is None:
        raise Skipped("no embedding model was named")
    answer = server.ask(EMBEDDINGS, {"model": server.embedder, "input": said} | fields, *names)
    return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@check(EMBEDDINGS, "input: a string, a list")
def embeddings(server: Server) -> None:
    near, same, far = embed(server, ["a cat sleeps", "the cat is sleeping", "interest rates rose in March"], "input")
    expect(cosine(near, same) > cosine(near, far), "like texts are no nearer than unlike ones")
    [alone] = embed(server, "a cat sleeps")
    expect(cosine(alone, near) > 0.999, "alone it is another vector than in a list")


@check(EMBEDDINGS, "encoding_format: base64")
def embeddings_base64(server: Server) -> None:
    [plain] = embed(server, "a cat")
    [encoded] = embed(server, "a cat", "encoding_format", encoding_format="base64")
    expect(isinstance(encoded, str), "no base64")
    data = base64.b64decode(encoded)
    found = list(struct.unpack(f"<{len(data) // 4}f", data))
    expect(len(found) == len(plain) and cosine(found, plain) > 0.999, "another vector")


@check(EMBEDDINGS, "dimensions: too many are refused")
def embeddings_dimensions(server: Server) -> None:
    if server.embedder is None:
        raise Skipped("no embedding model was named")
    server.refusal(EMBEDDINGS, {"model": server.embedder, "input": "x", "dimensions": 7}, "dimensions")


@check(EMBEDDINGS, "a text over the context")
def embeddings_long(server: Server) -> None:
    if server.embedder is None:
        raise Skipped("no embedding model was named")
    server.refusal(EMBEDDINGS, {"model": server.embedder, "input": "word " * 20_000}, "context", "token", "large")


@check("/v1/rerank", "documents")
def rerank(server: Server) -> None:
    if server.reranker is None:
        raise Skipped("no reranker was named")
    answer = server.ask("/v1/rerank", {"model": server.reranker, "query": "a cat", "documents": ["bonds", "a kitten"]})
    expect(answer["results"][0]["index"] == 1, "the unlike text comes first")


@check("/v1/rerank", "a model that is no reranker")
def rerank_refused(server: Server) -> None:
    server.refusal("/v1/rerank", {"model": server.model, "query": "a", "documents": ["b"]})


@check(TOKENS, "tokenize: a text", own=True)
def tokenize(server: Server) -> None:
    told = server.ask(f"{TOKENS}/tokenize", {"model": server.model, "text": COUNTING})
    used = server.complete(max_tokens=1)["usage"]["prompt_tokens"]
    expect(len(told["tokens"]) == used, f"{len(told['tokens'])} told, {used} used")


@check(TOKENS, "tokenize: messages", own=True)
def tokenize_chat(server: Server) -> None:
    messages = [{"role": "user", "content": COUNTING}]
    told = server.ask(f"{TOKENS}/tokenize", {"model": server.model, "messages": messages})
    used = server.chat(max_tokens=1)["usage"]["prompt_tokens"]
    expect(told["count"] == used, f"{told['count']} told, {used} used")


@check(TOKENS, "detokenize", own=True)
def detokenize(server: Server) -> None:
    told = server.ask(f"{TOKENS}/tokenize", {"model": server.model, "text": "Grüße 🙂", "add_special_tokens": False})
    back = server.ask(f"{TOKENS}/detokenize", {"model": server.model, "tokens": told["tokens"]})
    expect(back["text"].strip() == "Grüße 🙂" and back["exact"], f"{back['text']!r} comes back")


@check(TOKENS, "apply-template", own=True)
def apply_template(server: Server) -> None:
    told = server.ask(f"{TOKENS}/apply-template", {
        "model": server.model, "messages": [{"role": "user", "content": COUNTING}]})
    expect(COUNTING in told["prompt"] and told["prompt"] != COUNTING, "no rendered prompt")


@check("/v1/models", "list, and one")
def models(server: Server) -> None:
    names = [model["id"] for model in server.ask("/v1/models", None, method="GET")["data"]]
    expect(names, "no models")
    expect(server.ask(f"/v1/models/{names[0]}", None, method="GET")["id"] == names[0], "another one")


@check("/v1/models", "one that is not there")
def model_unknown(server: Server) -> None:
    reply = server.send("GET", "/v1/models/no-such-model")
    demand(reply.status == 404 and "no-such-model" in reply.text, f"{reply.status}: {reply.text[:60]}")


def error(reply: Any) -> dict[str, Any]:
    """In OpenAI's form."""
    told = reply.json.get("error")
    demand(isinstance(told, dict) and isinstance(told.get("message"), str) and "type" in told,
           f"{reply.status} in another form: {reply.text[:80]}")
    return dict(told)


@check(ERRORS, "an unknown model is a 404")
def unknown_model(server: Server) -> None:
    reply = server.refusal(CHAT, server.chat_body(model="no-such-model"), "model")
    demand(reply.status == 404, f"{reply.status}")
    error(reply)


@check(ERRORS, "a missing field is named in param")
def missing(server: Server) -> None:
    reply = server.refusal(CHAT, {"model": server.model}, "messages")
    demand(reply.status == 400 and error(reply).get("param") == "messages", f"{reply.status}: {reply.text[:80]}")


@check(ERRORS, "broken JSON is a 400")
def broken_json(server: Server) -> None:
    reply = server.send("POST", CHAT, content=b'{"model": "x", ', headers={"content-type": "application/json"})
    demand(reply.status == 400, f"{reply.status}")
    error(reply)


@check(ERRORS, "a form is a 415")
def wrong_type(server: Server) -> None:
    reply = server.send("POST", CHAT, content=b"a=b", headers={"content-type": "text/plain"})
    demand(reply.status == 415, f"{reply.status}")


@check(ERRORS, "100,000 brackets are a 400")
def deep(server: Server) -> None:
    reply = server.send("POST", CHAT, content=b"[" * 100_000, headers={"content-type": "application/json"})
    demand(400 <= reply.status < 500, f"{reply.status}")


@check(ERRORS, "a foreign Host is a 403")
def foreign_host(server: Server) -> None:
    reply = server.send("GET", "/v1/models", headers={"host": "evil.example"})
    demand(reply.status == 403, f"{reply.status}")


@check(ERRORS, "a route that there is not is a 404 in the same form")
def no_route(server: Server) -> None:
    reply = server.send("POST", "/v1/nothing", {})
    demand(reply.status == 404, f"{reply.status}")
    error(reply)


@check(ERRORS, "after an error the server still answers")
def still_there(server: Server) -> None:
    demand(server.text(), "no text")


def page(area: str, path: str, *, own: bool) -> None:
    @check(area, path, own=own)
    def there(server: Server) -> None:
        server.took(server.send("GET", path), path)


for _path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
    page("operator", _path, own=True)
