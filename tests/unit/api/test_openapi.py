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
    """Those that take none, or {} only."""
    bare = {"/edged/v1/gc", "/edged/v1/purge", "/edged/v1/reload", "/edged/v1/jobs/{identity}/cancel",
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
            assert operation["responses"].keys() == {"200", "default"}, path
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
    valid(document, responses["default"]["content"]["application/json"]["schema"], refused.json)


@pytest.mark.parametrize("path", ["/api/version", "/health/live", "/health/ready"])
async def test_pages_are_as_it_says(document: dict[str, Any], path: str) -> None:
    reply = await get(APP, path)
    content = document["paths"][path]["get"]["responses"]["200"]["content"]
    valid(document, content["application/json"]["schema"], reply.json)
