"""The OpenAPI document says what the server does: all routes, all fields, answers as they come."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from litestar.routes import HTTPRoute

from edged.api.fields import MAX_CHOICES
from edged.api.openapi import OPERATIONS
from tests.unit.api.asgi import ask, get
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

APP = app_with(FakeRouter(words("a", "b")))
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def document() -> dict[str, Any]:
    reply = await get(APP, "/openapi.json")
    assert reply.status == 200
    told: dict[str, Any] = reply.json
    return told


def routes() -> set[str]:
    return {f"{method} {route.path_format}" for route in APP.app.routes if isinstance(route, HTTPRoute)
            for handler in route.route_handlers for method in handler.http_methods if method not in ("HEAD", "OPTIONS")}


def valid(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def body_schema(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    return found


async def test_every_route_is_in_it_and_nothing_else(document: dict[str, Any]) -> None:
    told = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert told == routes()
    assert told >= OPERATIONS.keys()


async def test_every_field_of_every_body_is_in_it(document: dict[str, Any]) -> None:
    for name, operation in OPERATIONS.items():
        method, path = name.split()
        if not operation.bodies:
            continue
        schema = body_schema(document, method.lower(), path)
        for table, told in zip(operation.bodies, schema.get("anyOf", [schema]), strict=True):
            assert told["properties"].keys() == table.keys(), name
            assert told["required"] == [field for field, about in table.items() if about.required], name
            assert told["additionalProperties"] is False


async def test_routes_that_read_a_body_say_so(document: dict[str, Any]) -> None:
    bare = {"/edged/v1/reload", "/edged/v1/jobs/{identity}/cancel",
            "/v1/responses/{identity}/cancel", "/api/create", "/api/copy", "/api/push", "/api/blobs/{digest}"}
    without = {path for path, methods in document["paths"].items()
               if "post" in methods and "requestBody" not in methods["post"]}
    assert without == bare


async def test_its_schemas_are_schemas(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            bodies = [operation["requestBody"]] if "requestBody" in operation else []
            for part in [*operation["responses"].values(), *bodies]:
                for about in part["content"].values():
                    jsonschema.Draft202012Validator.check_schema(about["schema"])
            assert {"401", "403", "431", "500"} < operation["responses"].keys(), path
    identities = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(identities)) == len(identities)


async def test_limits_are_those_of_the_fields(document: dict[str, Any]) -> None:
    told = body_schema(document, "post", "/v1/chat/completions")["properties"]
    assert told["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES}
    assert told["top_p"]["anyOf"][0] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert "Checked, and ignored" in told["user"]["anyOf"][0]["description"]
    assert told["audio"]["enum"] == [None]


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "n": 2}),
    ("/v1/completions", {"model": "tiny", "prompt": ["x", "y"], "best_of": 1}),
    ("/v1/messages", {"model": "tiny", "messages": MESSAGES, "max_tokens": 5}),
    ("/v1/responses", {"model": "tiny", "input": "hi", "store": False}),
    ("/api/chat", {"model": "tiny", "messages": MESSAGES, "stream": False}),
    ("/api/generate", {"model": "tiny", "prompt": "hi", "stream": False}),
])
async def test_answers_and_errors_are_as_it_says(document: dict[str, Any], path: str, body: dict[str, Any]) -> None:
    valid(document, body_schema(document, "post", path), body)
    reply = await ask(APP, path, body)
    assert reply.status == 200, reply.text
    responses = document["paths"][path]["post"]["responses"]
    valid(document, responses["200"]["content"]["application/json"]["schema"], reply.json)
    with pytest.raises(jsonschema.ValidationError):
        valid(document, responses["200"]["content"]["application/json"]["schema"], {"answer": 42})
    wrong = body | {"temprature": 1}
    with pytest.raises(jsonschema.ValidationError):
        valid(document, body_schema(document, "post", path), wrong)
    refused = await ask(APP, path, wrong)
    assert refused.status == 400
    valid(document, responses["400"]["content"]["application/json"]["schema"], refused.json)


@pytest.mark.parametrize("path", ["/api/version", "/health/live", "/health/ready"])
async def test_pages_are_as_it_says(document: dict[str, Any], path: str) -> None:
    reply = await get(APP, path)
    content = document["paths"][path]["get"]["responses"]["200"]["content"]
    valid(document, content["application/json"]["schema"], reply.json)


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}


@pytest.mark.parametrize(("path", "body", "wrong"), [
    ("/v1/chat/completions",
     {"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}]},
                   {"role": "assistant", "content": None, "tool_calls": [CALL]},
                   {"role": "tool", "tool_call_id": "1", "content": "b"}],
      "tools": [{"type": "function", "function": FUNCTION}],
      "tool_choice": {"type": "function", "function": {"name": "f"}},
      "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
     {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
    ("/v1/chat/completions", {"messages": MESSAGES, "grammar": {"type": "regex", "value": "a+"}},
     {"messages": [{"role": "assistant"}]}),
    ("/v1/completions", {"prompt": [[1, 2], "a"]}, {"prompt": []}),
    ("/v1/messages",
     {"max_tokens": 5, "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
      "messages": [{"role": "user", "content": "a"},
                   {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                                     {"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
                   {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "b"}]}],
      "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f"},
      "thinking": {"type": "disabled"}},
     {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "f",
                                                                  "input": {}}]}]}),
    ("/v1/responses",
     {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "b"}],
      "tools": [{"type": "function"} | FUNCTION], "text": {"format": {"type": "text"}}, "store": False},
     {"input": [{"type": "web_search_call", "id": "1"}], "store": False}),
    ("/api/chat",
     {"messages": [{"role": "user", "content": "a", "images": []},
                   {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
                   {"role": "tool", "tool_name": "f", "content": "b"}],
      "format": {"type": "object"}, "think": False, "stream": False, "options": {"num_predict": -1, "stop": ["x"]}},
     {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}], "stream": False}),
])
async def test_what_stands_in_the_fields_is_told_too(
    document: dict[str, Any], path: str, body: dict[str, Any], wrong: dict[str, Any]
) -> None:
    schema = body_schema(document, "post", path)
    valid(document, schema, {"model": "tiny"} | body)
    reply = await ask(APP, path, {"model": "tiny"} | body)
    assert reply.status == 200, reply.text
    with pytest.raises(jsonschema.ValidationError):
        valid(document, schema, {"model": "tiny"} | wrong)
    assert (await ask(APP, path, {"model": "tiny"} | wrong)).status == 400
