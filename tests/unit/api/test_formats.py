"""`response_format` and `grammar`: what becomes of them, and what is refused by the name of its field."""

from __future__ import annotations

from typing import Any

import pytest

from edged.types import Constraint, Gbnf, GenerateRequest, JsonObject, JsonSchema, Lark, Regex
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "tiny", "prompt": "hi"}
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}


def schema_format(**more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA} | more}


async def sent(body: dict[str, Any], path: str = "/v1/chat/completions") -> GenerateRequest:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), path, body)
    assert reply.status == 200, reply.error
    request = router.requests[-1]
    assert isinstance(request, GenerateRequest)
    return request


@pytest.mark.parametrize(("said", "constraint", "field"), [
    ({}, None, "response_format"),
    ({"response_format": {"type": "text"}}, None, "response_format"),
    ({"response_format": {"type": "json_object"}}, JsonObject(), "response_format"),
    ({"response_format": schema_format()}, JsonSchema(
        '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"integer"}}}'),
     "response_format.json_schema.schema"),
    ({"response_format": schema_format(strict=True)} , JsonSchema(
        '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"integer"}}}'),
     "response_format.json_schema.schema"),
    ({"grammar": {"type": "regex", "value": "a+"}}, Regex("a+"), "grammar.value"),
    ({"grammar": {"type": "lark", "value": "start: /a/"}}, Lark("start: /a/"), "grammar.value"),
    ({"grammar": {"type": "gbnf", "value": "root ::= x"}}, Gbnf("root ::= x"), "grammar.value"),
    ({"grammar": {"type": "regex", "value": "a"}, "response_format": {"type": "text"}}, Regex("a"), "grammar.value"),
], ids=str)
async def test_a_format_of_a_chat_becomes_a_constraint(
    said: dict[str, Any], constraint: Constraint | None, field: str
) -> None:
    request = await sent(CHAT | said)
    assert (request.constraint, request.constraint_field) == (constraint, field)


async def test_completions_take_grammars_for_every_prompt() -> None:
    request = await sent(TEXT | {"grammar": {"type": "regex", "value": "a"}}, "/v1/completions")
    assert request.constraint == Regex("a")


@pytest.mark.parametrize(("said", "param"), [
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_object", "json_schema": {}}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format.json_schema.schema"),
    ({"response_format": schema_format(schema=[])}, "response_format.json_schema.schema"),
    ({"response_format": schema_format(schema=True)}, "response_format.json_schema.schema"),
    ({"response_format": schema_format(strict="yes")}, "response_format.json_schema.strict"),
    ({"response_format": schema_format(stricter=True)}, "response_format.json_schema.stricter"),
    ({"grammar": "a"}, "grammar"),
    ({"grammar": {"type": "regex"}}, "grammar.value"),
    ({"grammar": {"type": "regex", "value": ""}}, "grammar.value"),
    ({"grammar": {"type": "ebnf", "value": "a"}}, "grammar.type"),
    ({"grammar": {"type": "regex", "value": "a", "flags": "i"}}, "grammar.flags"),
    ({"grammar": {"type": "regex", "value": "a"}, "response_format": {"type": "json_object"}}, "grammar"),
], ids=str)
async def test_what_is_no_format_is_refused_by_its_field(said: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), "/v1/chat/completions", CHAT | said)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_completions_have_no_response_format() -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), "/v1/completions", TEXT | {"response_format": {"type": "text"}})
    assert (reply.status, reply.error["param"]) == (400, "response_format")


async def test_what_only_the_model_could_read_is_told_to_be_ignored() -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), "/v1/chat/completions",
                      CHAT | {"response_format": schema_format(description="A thing.")})
    assert set(reply.answer_headers["edged-ignored"].split(", ")) == {
        "response_format.json_schema.name", "response_format.json_schema.description"}
