"""The functions of a request: as a template shows them, and as grammars hold their arguments."""

from __future__ import annotations

from typing import Any

import msgspec

from edged.errors import InvalidRequest
from edged.types import ToolFunction, ToolUse
from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import Callee, Spelling
from edged.worker.schema import enforceable

#: With one of these a schema says elsewhere which members there are.
_OPEN = frozenset({"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"})
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


def shown(tools: ToolUse) -> list[dict[str, Any]]:
    """As templates expect them, which is OpenAI's shape."""
    return [
        {"type": "function", "function": {
            "name": function.name, "description": function.description,
            "parameters": _NO_ARGUMENTS if function.parameters is None else msgspec.json.decode(function.parameters),
        }}
        for function in tools.functions
    ]


def call_grammar(tools: ToolUse, family: Family, spell: Spelling, *, loose: bool = False) -> CallGrammar:
    """loose: functions that are not strict take any object. Raises Unwritable, and InvalidRequest for a strict function
    whose schema cannot be enforced."""
    callees = [
        Callee(function.name, _arguments(function, f"tools[{index}].function.parameters", loose=loose))
        for index, function in enumerate(tools.functions) if not tools.allowed or function.name in tools.allowed
    ]
    return family.grammar(callees, parallel=tools.parallel and not family.single, spell=spell)


def _arguments(function: ToolFunction, path: str, *, loose: bool) -> dict[str, Any]:
    """The schema that the arguments are held to: the function's own, without members that it does not name where it
    leaves them open; or any object, where it is not strict and its schema cannot be enforced."""
    if function.parameters is None:
        return {**_NO_ARGUMENTS, "additionalProperties": False}
    if loose and not function.strict:
        return {"type": "object"}
    try:
        enforceable(function.parameters)
    except InvalidRequest as error:
        if not function.strict:
            return {"type": "object"}
        raise InvalidRequest(
            f"The function {function.name} cannot be strict. {error.message}", param=path) from None
    schema: dict[str, Any] = msgspec.json.decode(function.parameters)
    closed = {} if schema.keys() & _OPEN or "properties" not in schema else {"additionalProperties": False}
    return {"type": "object", **schema, **closed}
