"""JSON Schemas in Gemma's notation: the plain part of them that tools use, anything else is Unwritable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edged.worker.formats.family import Unwritable
from edged.worker.formats.lark import Spelling, quoted

#: They say something to the reader and hold the value to nothing.
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment"})
_KNOWN = frozenset({"type", "enum", "const", "properties", "required", "additionalProperties", "items", "nullable"})
_SCALARS = {"integer": "INTEGER", "number": "NUMBER", "boolean": "BOOLEAN", "null": '"null"', "string": "string"}
#: Of a schema within a schema.
_DEEPEST = 16
COMMA = quoted(",") + " "


class Notation:
    """Collects the rules that the expressions it gives out need."""

    def __init__(self, spell: Spelling, quote: str) -> None:
        self._quote = spell(quote)
        controlled = self._quote.startswith("<")
        self.rules = [
            "INTEGER: /-?(0|[1-9][0-9]{0,17})/",
            r"NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/",
            'BOOLEAN: "true" | "false"',
            *([f"string: {self._quote} TEXT {self._quote}", r"TEXT: /(.|\n)*/"] if controlled else
              [f"string: {self._quote} until_quote", rf"until_quote[lazy]: /(.|\n)*/ {self._quote}"]),
        ]
        self._count = 0

    def object(self, schema: Mapping[str, Any], depth: int = 0) -> str:
        """Members in the order of their keys, as the templates sort them. Raises Unwritable."""
        if schema.get("additionalProperties") not in (None, False):
            raise Unwritable("additionalProperties")
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if not isinstance(properties, dict) or not required <= properties.keys():
            raise Unwritable("required")
        members = [
            (f"{quoted(name + ':')} {self.value(properties[name], depth + 1)}", name in required)
            for name in sorted(properties)
        ]
        # tails[i]: what may follow once one member stands there, from member i on.
        tail, tails = "", [""]
        for member, needed in reversed(members):
            tail = self._rule(f'{_maybe(COMMA + member, needed)} {tail}')
            tails.insert(0, tail)
        firsts = []
        for index, (member, needed) in enumerate(members):
            firsts.append(f"{member} {tails[index + 1]}")
            if needed:
                break
        else:
            firsts.append('""')
        return self._rule(f'"{{" ({" | ".join(firsts)}) "}}"')

    def value(self, schema: Any, depth: int) -> str:
        if schema is True:
            schema = {}
        if not isinstance(schema, dict) or depth > _DEEPEST:
            raise Unwritable("a schema that is no object, or nests deeply")
        if unknown := schema.keys() - _ANNOTATIONS - _KNOWN:
            raise Unwritable(min(unknown))
        if "enum" in schema or "const" in schema:
            return self._rule(" | ".join(map(self._constant, schema.get("enum", [schema.get("const")]))))
        kinds = schema.get("type", list(_SCALARS))
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if schema.get("nullable"):
            kinds = [*kinds, "null"]
        return self._rule(" | ".join(self._of_kind(kind, schema, depth) for kind in kinds))

    def _of_kind(self, kind: Any, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "object":
            if "properties" not in schema:
                raise Unwritable("an object without properties")
            return self.object(schema, depth)
        if kind == "array":
            item = self.value(schema.get("items", True), depth + 1)
            return self._rule(f'"[" ({item} ("," {item})*)? "]"')
        if kind not in _SCALARS:
            raise Unwritable("type")
        return _SCALARS[kind]

    def _constant(self, value: Any) -> str:
        match value:
            case str():
                return f"{self._quote} {quoted(value)} {self._quote}" if value else f"{self._quote} {self._quote}"
            case bool():
                return '"true"' if value else '"false"'
            case None:
                return '"null"'
            case int() | float():
                return quoted(str(value))
            case _:
                raise Unwritable("enum")

    def _rule(self, expression: str) -> str:
        self._count += 1
        self.rules.append(f"v{self._count}: {expression}")
        return f"v{self._count}"


def _maybe(expression: str, needed: bool) -> str:
    return expression if needed else f"({expression})?"
