"""`response_format` of chat, and `grammar`, edged's own field for what it cannot say: what an answer must be.

A schema is enforced whether `strict` or not: what strict promises, the other only hopes for. Whether it can be enforced
is known to the worker, whose refusal names the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from edged.api.fields import (
    Accepted,
    Table,
    accept,
    boolean,
    choice,
    inert,
    kind_schema,
    object_schema,
    record,
    served,
    takes,
    text,
    wrong,
)
from edged.errors import InvalidRequest
from edged.types import Constraint, Gbnf, JsonObject, JsonSchema, Lark, Regex


class Format(NamedTuple):
    """constraint: None for `text`. field: the one whose value may turn out not to be enforceable."""

    constraint: Constraint | None
    field: str
    ignored: list[str]


@takes({"type": "object", "description": "A JSON Schema."})
def json_schema(value: Any, path: str) -> JsonSchema:
    """A schema as it came, with the order of its properties."""
    if not isinstance(value, dict):
        raise wrong(path, "a JSON Schema, which is an object")
    return JsonSchema(msgspec.json.encode(value).decode())


#: name and description are for the model's eyes in OpenAI's service; no template here shows them.
_JSON_SCHEMA: Table = {
    "name": inert(text(64, min_length=1)), "description": inert(text()), "strict": served(boolean),
    "schema": served(json_schema, required=True),
}
_GRAMMARS: dict[str, Callable[[str], Constraint]] = {"regex": Regex, "lark": Lark, "gbnf": Gbnf}
_GRAMMAR: Table = {"type": served(choice(*_GRAMMARS), required=True),
                   "value": served(text(min_length=1), required=True)}


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(path, "an object")
    return value


_kinds = choice("text", "json_object", "json_schema")


def _table(kind: Any) -> Table:
    table: Table = {"type": served(_kinds, required=True)}
    return table | ({"json_schema": served(record(_JSON_SCHEMA), required=True)} if kind == "json_schema" else {})


@takes(lambda: {"anyOf": [kind_schema(_table(kind), kind) for kind in ("text", "json_object", "json_schema")]})
def response_format(value: Any, path: str) -> Format:
    table = _table(_object(value, path).get("type"))
    said = accept(table, value, unknown="refuse", path=path).values
    match said["type"]:
        case "text":
            return Format(None, path, [])
        case "json_object":
            return Format(JsonObject(), path, [])
    inner: Accepted = said["json_schema"]
    return Format(inner.values["schema"], f"{path}.json_schema.schema", inner.ignored)


@takes(object_schema(_GRAMMAR))
def grammar(value: Any, path: str) -> Format:
    said = accept(_GRAMMAR, _object(value, path), unknown="refuse", path=path).values
    return Format(_GRAMMARS[said["type"]](said["value"]), f"{path}.value", [])


#: Of chat and completions.
GRAMMAR: Table = {"grammar": served(grammar)}
#: Of chat.
RESPONSE_FORMAT: Table = GRAMMAR | {"response_format": served(response_format)}


def constraint(said: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """The fields of a GenerateRequest that say it. Raises InvalidRequest where two are said at once."""
    formats = [said[name] for name in ("response_format", "grammar") if name in said]
    for form in formats:
        ignored.extend(form.ignored)
    asked = [form for form in formats if form.constraint is not None]
    if len(asked) > 1:
        raise InvalidRequest("`response_format` and `grammar` both say what the answer must be; send one of them.",
                             param="grammar")
    return {"constraint": asked[0].constraint, "constraint_field": asked[0].field} if asked else {}
